"""What a transcription is: text, and where in the recording it was said. Times are seconds from its start."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Word:
    word: str
    start: float
    end: float
    probability: float
    """The model's confidence, 0 to 1."""


@dataclass(frozen=True)
class Segment:
    """A stretch of speech of at most about 30 seconds, as the voice-activity detector cut it."""

    id: int
    start: float
    end: float
    text: str
    words: list[Word] | None = None
    """None where word times were not asked for."""


@dataclass(frozen=True)
class Transcript:
    text: str
    """The whole text; empty where nobody speaks."""
    language: str
    duration: float
    """Length of the recording, silence included."""
    segments: list[Segment] = field(default_factory=list)
