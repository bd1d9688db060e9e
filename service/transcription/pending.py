"""A recording that waits for its transcript, and what is known of it so far."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from service.transcription.messages import Heard
from service.transcription.speakers import Turns, with_speakers
from service.transcription.transcript import Alignment, Segment, Transcript, TranscriptionOptions, joined
from shared.media import SAMPLE_RATE


@dataclass(frozen=True)
class Progress:
    """What was heard since the last one, and up to which second of the recording everything is known."""

    segments: tuple[Segment, ...]
    until: float
    language: str | None


@dataclass(eq=False)
class Pending:
    """One recording, from the request to the transcript.

    Attributes:
        audio: mono 16 kHz float32 `[samples]`.
        events: what the client is told, the transcript or an error last.
        resume_at: sample from which a new worker goes on.
        crashes: workers that died while they had it.
        moved_at: when it last made progress, by the monotonic clock.
        ended: completed, failed or given up.
    """

    id: int
    audio: np.ndarray = field(repr=False)
    options: TranscriptionOptions
    events: asyncio.Queue[Progress | Transcript | Exception] = field(default_factory=asyncio.Queue)
    segments: list[Segment] = field(default_factory=list, repr=False)
    language: str | None = None
    alignment: Alignment | None = None
    resume_at: int = 0
    crashes: int = 0
    moved_at: float = 0.0
    ended: bool = False

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE

    @property
    def resumed_options(self) -> TranscriptionOptions:
        """The options with the language that was detected before, if any."""
        return replace(self.options, language=self.options.language or self.language)

    def heard(self, message: Heard) -> None:
        new = tuple(
            replace(segment, id=index) for index, segment in enumerate(message.segments, len(self.segments))
        )
        resume_at = int(message.until * SAMPLE_RATE)
        if new or resume_at > self.resume_at:
            self.moved_at = time.monotonic()
        self.segments.extend(new)
        self.resume_at = max(self.resume_at, resume_at)
        self.language = message.language or self.language
        self.alignment = message.alignment or self.alignment
        self.events.put_nowait(Progress(new, message.until, self.language))

    def end(self, how: Transcript | Exception) -> None:
        """Tells the client the transcript, or why there is none."""
        self.ended = True
        self.events.put_nowait(how)

    def transcript(self, turns: Turns) -> Transcript:
        language = self.language or "en"
        segments: Sequence[Segment] = with_speakers(self.segments, turns, language)
        return Transcript(
            joined(segments, language, self.options.task),
            language,
            self.seconds,
            list(segments),
            self.alignment,
            self.options.task,
        )
