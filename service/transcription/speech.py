"""Where in a recording somebody speaks: WhisperX's cut into pieces of at most 30 seconds, made as it goes.

WhisperX (Bain et al. 2023, https://arxiv.org/abs/2303.00747) scores a whole recording with pyannote's
segmentation model, then cuts it at pauses and packs the speech into pieces that Whisper takes. Its code does
each step over the whole recording. Here the same steps run window by window, so that text comes while hours
of sound are still to be heard, and windows of several recordings share a batch. The pieces are the same;
tests/service/test_speech_pieces.py compares them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.media import SAMPLE_RATE

MAX_SECONDS = 30.0
"""Longest piece: what Whisper's encoder takes."""
ONSET, OFFSET = 0.5, 0.363
"""Speech begins above the one score and ends below the other: WhisperX's defaults."""


@dataclass(frozen=True)
class Span:
    """A piece of the recording with speech in it, in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class Grid:
    """The windows of a segmentation model, and the frames that it scores in them.

    Attributes:
        window, step: samples of a window, and from one to the next.
        frame_step, frame_duration: of the frames, in seconds.
    """

    window: int
    step: int
    frame_step: float
    frame_duration: float

    def windows_in(self, samples: int) -> int:
        """Windows over a recording; the last one may reach past its end."""
        whole = max(0, (samples - self.window) // self.step + 1)
        rest = samples < self.window or (samples - self.window) % self.step > 0
        return whole + int(rest)


class VoiceActivity:
    """The segmentation model of a WhisperX pipeline."""

    def __init__(self, vad_model: Any) -> None:
        self._inference = inference = vad_model.vad_pipeline._segmentation
        frames = inference.model.receptive_field
        window, step = (round(seconds * SAMPLE_RATE) for seconds in (inference.duration, inference.step))
        self.grid = Grid(window, step, frames.step, frames.duration)

    def scores(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Scores `[windows, frames]`, 0 to 1, of windows of `grid.window` samples each."""
        batch = torch.from_numpy(np.stack(windows))[:, None]
        return self._inference.infer(batch).max(axis=-1)


class SpeechFinder:
    """Turns the scores of one recording's windows, in order, into pieces."""

    def __init__(self, grid: Grid) -> None:
        self._scores = _OverlapAdd(grid)
        self._turns = _Turns(grid)
        self._packing = _Packing()

    @property
    def open_since(self) -> float:
        """Second before which no piece to come begins."""
        starts = (self._packing.open_since, self._turns.open_since)
        return min(start for start in starts if start is not None)

    def feed(self, scores: np.ndarray) -> list[Span]:
        """The pieces that the next window completes; `scores` is `[frames]`."""
        return self._pack(self._scores.add(scores))

    def finish(self, samples: int) -> list[Span]:
        """The pieces that are left, once all windows of a recording of `samples` samples were fed."""
        rest = self._scores.rest(samples)
        spans = self._pack(rest)
        if (turn := self._turns.last()) is not None:
            spans += self._packing.add(turn)
        return spans + self._packing.last()

    def _pack(self, scores: np.ndarray) -> list[Span]:
        return [span for turn in self._turns.feed(scores) for span in self._packing.add(turn)]


class _OverlapAdd:
    """Mean of overlapping windows, weighted by a Hamming window: pyannote's `Inference.aggregate`."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._windows = 0
        self._base = 0  # frame of the first entry below
        self._sum = np.zeros(0, np.float32)
        self._weight = np.zeros(0, np.float32)

    def add(self, scores: np.ndarray) -> np.ndarray:
        """The frames that no later window reaches."""
        hamming = np.hamming(len(scores))
        begin = self._first_frame(self._windows) - self._base
        self._grow(begin + len(scores))
        self._sum[begin : begin + len(scores)] += scores * hamming
        self._weight[begin : begin + len(scores)] += hamming
        self._windows += 1
        return self._take(self._first_frame(self._windows) - self._base)

    def rest(self, samples: int) -> np.ndarray:
        """The frames up to the end of the recording."""
        grid = self._grid
        end = (grid.window + (self._windows - 1) * grid.step) / SAMPLE_RATE
        frames = round(end / grid.frame_step) + 1
        if end > samples / SAMPLE_RATE:  # the last window was padded
            frames = min(frames, int(samples / SAMPLE_RATE / grid.frame_step) + 1)
        self._grow(frames - self._base)
        return self._take(frames - self._base)

    def _first_frame(self, window: int) -> int:
        return round(window * self._grid.step / SAMPLE_RATE / self._grid.frame_step)

    def _grow(self, frames: int) -> None:
        missing = max(0, frames - len(self._sum))
        self._sum = np.pad(self._sum, (0, missing))
        self._weight = np.pad(self._weight, (0, missing))

    def _take(self, frames: int) -> np.ndarray:
        mean = self._sum[:frames] / np.maximum(self._weight[:frames], 1e-12)
        self._sum, self._weight = self._sum[frames:], self._weight[frames:]
        self._base += frames
        return mean


class _Turns:
    """Speech turns by hysteresis, none longer than a piece: the `Binarize` of WhisperX."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._frames = 0
        self._start = 0.0
        self._time = 0.0
        self._active = False
        self._past: deque[tuple[float, float]] = deque()  # time and score of the frames of the turn

    @property
    def open_since(self) -> float:
        return self._start if self._active else self._time

    def feed(self, scores: np.ndarray) -> Iterator[Span]:
        for score in scores:
            begin = self._frames * self._grid.frame_step
            self._time = 0.5 * (begin + begin + self._grid.frame_duration)
            self._frames += 1
            if self._frames == 1:
                self._start, self._active = self._time, bool(score > ONSET)
                self._past.append((self._time, score))
            elif not self._active:
                if score > ONSET:
                    self._start, self._active = self._time, True
            else:
                yield from self._go_on(score)

    def last(self) -> Span | None:
        return _span(self._start, self._time) if self._active else None

    def _go_on(self, score: float) -> Iterator[Span]:
        turn = None
        if self._time - self._start > MAX_SECONDS:
            turn = self._split()
        elif score < OFFSET:
            turn = _span(self._start, self._time)
            self._start, self._active = self._time, False
            self._past.clear()
        self._past.append((self._time, score))
        if turn is not None:
            yield turn

    def _split(self) -> Span | None:
        """Cuts at the lowest score of the turn's second half, the likeliest pause."""
        past = list(self._past)
        half = len(past) // 2
        lowest = half + int(np.argmin([score for _, score in past[half:]]))
        turn = _span(self._start, past[lowest][0])
        self._start = past[lowest][0]
        self._past = deque(past[lowest + 1 :])
        return turn


class _Packing:
    """Packs turns into pieces, pauses between them included: the `merge_chunks` of WhisperX."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._end = 0.0

    @property
    def open_since(self) -> float | None:
        return self._start

    def add(self, turn: Span) -> list[Span]:
        if self._start is None:
            self._start, self._end = turn.start, turn.end
            return []
        full = []
        if turn.end - self._start > MAX_SECONDS and self._end > self._start:
            full.append(Span(self._start, self._end))
            self._start = turn.start
        self._end = turn.end
        return full

    def last(self) -> list[Span]:
        return [] if self._start is None else [Span(self._start, self._end)]


def _span(start: float, end: float) -> Span | None:
    return Span(start, end) if end - start > 1e-6 else None
