"""What the speech worker has done, for metrics and tests."""

from dataclasses import dataclass


@dataclass
class TranscriberStats:
    """Counters since the start, and the state now."""

    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    restarts: int = 0
    """Workers replaced: dead, stuck, or done with their share. One unloaded while idle does not count."""
    batches: int = 0
    batched_pieces: int = 0
    """Pieces of speech that were decoded in them."""
    audio_seconds: float = 0.0
    """Length of what was transcribed."""
    busy_seconds: float = 0.0
    """Wall-clock time in which there was something to transcribe."""
