"""What a transcription is: what is asked, and what was heard. Times are seconds from the recording's start."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Alignment = Literal["wav2vec2", "whisper"]
Task = Literal["transcribe", "translate"]

_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that Whisper writes without spaces: openai/whisper's tokenizer.py."""


@dataclass(frozen=True)
class TranscriptionOptions:
    """How to transcribe a recording. Recordings with the same options share batches."""

    language: str | None = None
    """The language spoken; None: the operator's, else detected in the first stretch of speech."""
    task: Task = "transcribe"
    """`translate` writes English whatever is spoken; only multilingual models can."""
    prompt: str = ""
    """Text before the speech, for names and style; Whisper reads the last 223 tokens of it."""
    temperature: float = 0.0
    """0: beam search; above: sampling."""
    word_timestamps: bool = False
    speakers: bool = False
    """Say who speaks; needs word times, and makes them."""


PLAIN = TranscriptionOptions()


@dataclass(frozen=True)
class Word:
    word: str
    start: float
    end: float
    probability: float
    """The model's confidence, 0 to 1."""
    speaker: str | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of speech of at most about 30 seconds, as the voice-activity detector cut it; with speakers,
    cut again where the speaker changes."""

    id: int
    start: float
    end: float
    text: str
    words: list[Word] | None = None
    """None where word times were not asked for."""
    speaker: str | None = None
    tokens: tuple[int, ...] = ()
    """Whisper's tokens of the text; a segment cut at a change of speaker keeps those of the whole."""
    avg_logprob: float = 0.0
    """Mean log-probability of a token."""
    compression_ratio: float = 0.0
    """Length of the text over its length compressed by zlib; above 2.4 it repeats itself."""
    no_speech_prob: float = 0.0
    temperature: float = 0.0


@dataclass(frozen=True)
class Transcript:
    text: str
    """The whole text; empty where nobody speaks."""
    language: str
    """Code of the language spoken."""
    duration: float
    """Length of the recording, silence included."""
    segments: list[Segment] = field(default_factory=list)
    alignment: Alignment | None = None
    """What timed the words: a wav2vec2 model or Whisper's attention; None without words."""
    task: Task = "transcribe"


def space_between(language: str, task: Task = "transcribe") -> str:
    """What stands between two stretches of text: a space, or nothing where the language has none."""
    return "" if task == "transcribe" and language in _UNSPACED else " "


def joined(segments: Iterable[Segment], language: str, task: Task = "transcribe") -> str:
    """The text of several segments."""
    return space_between(language, task).join(segment.text for segment in segments)
