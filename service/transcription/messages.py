"""What the service's process and the speech worker tell each other, pickled through a pipe.

The sound itself follows a `Sound` as plain bytes. It goes through the pipe, not through a file or /dev/shm,
which containers keep small, and only as the worker asks for it, so that the worker never holds more of a long
recording than it works on.
"""

from dataclasses import dataclass

from service.transcription.transcript import Alignment, Segment, TranscriptionOptions

PIECE = 1024 * 1024
"""Samples sent at a time: about a minute."""


# Service to worker


@dataclass(frozen=True)
class Job:
    """A recording of `samples` samples, to be transcribed from sample `begin` on."""

    id: int
    samples: int
    options: TranscriptionOptions
    begin: int = 0


@dataclass(frozen=True)
class Sound:
    """`samples` samples from `start` on follow as float32 bytes."""

    job: int
    start: int
    samples: int


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the recording any more; answered by `Dropped`."""

    job: int


# Worker to service


@dataclass(frozen=True)
class Ready:
    languages: frozenset[str]


@dataclass(frozen=True)
class NotLoaded:
    """The model did not load. For the log, not for the client."""

    reason: str


@dataclass(frozen=True)
class WantSound:
    job: int
    start: int
    samples: int


@dataclass(frozen=True)
class Batch:
    """So many stretches of speech shared one pass of the model."""

    rows: int


@dataclass(frozen=True)
class Heard:
    """Progress: what was said, and up to which second everything is known. Segments have no ids yet."""

    job: int
    segments: tuple[Segment, ...]
    until: float
    language: str | None
    alignment: Alignment | None


@dataclass(frozen=True)
class Finished:
    job: int
    turns: tuple[tuple[float, float, str], ...] = ()
    """Start, end and label of the stretches in which one speaker speaks, where they were asked for."""


@dataclass(frozen=True)
class Failed:
    job: int
    reason: str
    """For the log, not for the client."""


@dataclass(frozen=True)
class Dropped:
    """The worker has done with a cancelled recording."""

    job: int
