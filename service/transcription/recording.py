"""One recording as the speech worker sees it: the part of its sound that is needed now, and what waits.

A recording goes through two stages that run at the same time: listening (its windows are scored for speech,
which completes pieces) and decoding (pieces become text). Both stages take from several recordings at once.
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from service.transcription.messages import PIECE, Job, WantSound
from service.transcription.speech import Grid, Span, SpeechFinder
from service.transcription.transcript import Alignment
from shared.media import SAMPLE_RATE

_MAX_PENDING = 16
"""Pieces that wait to be decoded; with more, listening stops for a while, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Speech to decode: where it was, in seconds of the recording, and its sound `[samples]`."""

    start: float
    end: float
    audio: np.ndarray


class Recording:
    """The state of one job. Not thread-safe; the worker holds its lock.

    Attributes:
        pieces: ready to be decoded.
        listening, decoding: a stage is at work on it.
        cancelled: nobody waits for it any more.
        kind: recordings of the same kind may share a batch.
        language, alignment: once known.
        whole: all of its sound `[samples]`, kept only for telling speakers apart.
    """

    def __init__(self, job: Job, language: str | None, grid: Grid) -> None:
        self.job = job
        self.pieces: deque[Piece] = deque()
        self.listening = self.decoding = self.cancelled = False
        self.kind = replace(job.options, language=None)
        self.language = language
        self.alignment: Alignment | None = None
        self.whole = np.zeros(job.samples, np.float32) if job.options.speakers else None
        self._grid = grid
        self._finder = SpeechFinder(grid)
        self._samples = job.samples - job.begin  # what is left after a restart is a recording of its own
        self._offset = job.begin
        self._windows = grid.windows_in(self._samples)
        self._next_window = 0
        self._sound = np.empty(0, np.float32)
        self._sound_start = 0
        self._asked = 0
        self._before = self._asked_before = 0

    @property
    def windows_left(self) -> int:
        return self._windows - self._next_window

    @property
    def heard_all(self) -> bool:
        return not self.windows_left

    @property
    def done(self) -> bool:
        return self.heard_all and not (self.pieces or self.listening or self.decoding)

    @property
    def until(self) -> float:
        """Second up to which everything is decoded, as far as no piece is at work."""
        if self.pieces:
            return self.pieces[0].start
        if self.heard_all:
            return self.job.samples / SAMPLE_RATE
        return self._offset / SAMPLE_RATE + self._finder.open_since

    # ------------------------------------------------------------------------------------------ sound

    def wanted_sound(self) -> WantSound | None:
        """The next stretch to ask for, if there is less than a minute ahead and none under way."""
        if self.whole is not None and self._before < self._offset:
            return self._wanted_before()
        received = self._sound_start + len(self._sound)
        if self._asked > received or received == self._samples:
            return None
        if received - self._next_window * self._grid.step > PIECE // 2:
            return None
        count = min(PIECE, self._samples - received)
        self._asked = received + count
        return WantSound(self.job.id, self._offset + received, count)

    def _wanted_before(self) -> WantSound | None:
        """Sound that an earlier worker decoded: only to tell speakers apart."""
        if self._asked_before > self._before:
            return None
        count = min(PIECE, self._offset - self._before)
        self._asked_before = self._before + count
        return WantSound(self.job.id, self._before, count)

    def receive(self, start: int, audio: np.ndarray) -> None:
        """The samples that were asked for, from sample `start` of the recording on."""
        if self.whole is not None:
            self.whole[start : start + len(audio)] = audio
        if start < self._offset:
            self._before += len(audio)
        else:
            self._sound = np.concatenate((self._sound, audio))

    # -------------------------------------------------------------------------------------- listening

    def windows(self, limit: int) -> list[np.ndarray]:
        """Up to `limit` of the next windows, as far as their sound is here and there is room for pieces."""
        if self.cancelled or self.listening or len(self.pieces) >= _MAX_PENDING:
            return []
        found: list[np.ndarray] = []
        while len(found) < limit and (window := self._window(self._next_window + len(found))) is not None:
            found.append(window)
        return found

    def _window(self, index: int) -> np.ndarray | None:
        size, begin = self._grid.window, index * self._grid.step
        received = self._sound_start + len(self._sound)
        if index >= self._windows or min(begin + size, self._samples) > received:
            return None
        window = self._sound[begin - self._sound_start : begin + size - self._sound_start]
        return np.pad(window, (0, size - len(window)))

    def listened(self, scores: np.ndarray) -> None:
        """Takes the scores `[windows, frames]` of the windows that `windows` gave."""
        spans = [span for window in scores for span in self._finder.feed(window)]
        self._next_window += len(scores)
        if self.heard_all:
            spans += self._finder.finish(self._samples)
        self.pieces.extend(self._piece(span) for span in spans)
        self._forget_sound()

    def _piece(self, span: Span) -> Piece:
        begin, end = (int(second * SAMPLE_RATE) - self._sound_start for second in (span.start, span.end))
        offset = self._offset / SAMPLE_RATE
        stop = min(offset + span.end, self.job.samples / SAMPLE_RATE)
        return Piece(offset + span.start, stop, self._sound[begin:end].copy())

    def _forget_sound(self) -> None:
        needed = min(self._next_window * self._grid.step, int(self._finder.open_since * SAMPLE_RATE))
        drop = needed - self._sound_start
        if drop > PIECE // 4:  # not for each window: it copies what is left
            self._sound = self._sound[drop:].copy()
            self._sound_start = needed
