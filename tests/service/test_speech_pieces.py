"""Speech is cut into pieces window by window, as WhisperX cuts it with the whole recording at hand."""

import numpy as np
import pytest
from pyannote.audio.core.inference import Inference
from pyannote.core import Segment, SlidingWindow, SlidingWindowFeature
from whisperx.vads import Pyannote

from service.transcription.speech import OFFSET, ONSET, Grid, Span, SpeechFinder
from shared.media import SAMPLE_RATE

FRAMES = 293
GRID = Grid(5 * SAMPLE_RATE, SAMPLE_RATE // 2, frame_step=0.016875, frame_duration=0.0619375)


def whole_recording(scores: np.ndarray, samples: int) -> list[tuple[float, float]]:
    """pyannote's aggregation, WhisperX's hysteresis and packing, over all `[windows, frames]` at once."""
    windows = SlidingWindow(start=0.0, duration=GRID.window / SAMPLE_RATE, step=GRID.step / SAMPLE_RATE)
    frames = SlidingWindow(start=0.0, duration=GRID.frame_duration, step=GRID.frame_step)
    feature = SlidingWindowFeature(scores[..., None].copy(), windows)
    mean = Inference.aggregate(feature, frames, hamming=True, missing=0.0)
    if samples < GRID.window or (samples - GRID.window) % GRID.step:
        mean.data = mean.crop(Segment(0.0, samples / SAMPLE_RATE), mode="loose")
    pieces = Pyannote.merge_chunks(mean, 30, onset=ONSET, offset=OFFSET)
    return [(piece["start"], piece["end"]) for piece in pieces]


def window_by_window(scores: np.ndarray, samples: int) -> tuple[list[Span], list[float]]:
    """Pieces, and the second before which nothing would follow, after each window."""
    finder = SpeechFinder(GRID)
    pieces, open_since = [], []
    for window in scores:
        new = finder.feed(window)
        assert not open_since or all(piece.start >= open_since[-1] for piece in new)
        pieces += new
        open_since.append(finder.open_since)
    last = finder.finish(samples)
    assert all(piece.start >= open_since[-1] for piece in last)
    return pieces + last, open_since


def talk(windows: int, seed: int, loud: float) -> np.ndarray:
    """Scores of someone who speaks `loud` of the time, in turns of about two seconds, with noise."""
    generator = np.random.default_rng(seed)
    length = windows * 30 + FRAMES
    turns = np.repeat(generator.random(length // 120 + 1) < loud, 120)[:length]
    track = np.clip(0.8 * turns + generator.normal(0.1, 0.15, length), 0, 1).astype(np.float32)
    return np.stack([track[begin : begin + FRAMES] for begin in range(0, windows * 30, 30)])


@pytest.mark.parametrize("loud", [0.0, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize(("windows", "rest"), [(1, 0), (1, -60_000), (40, 0), (41, -3000), (400, -1)])
def test_the_pieces_are_those_of_whisperx(windows: int, rest: int, loud: float):
    samples = GRID.window + (windows - 1) * GRID.step + rest
    assert GRID.windows_in(samples) == windows
    scores = talk(windows, seed=windows, loud=loud)
    expected = whole_recording(scores, samples)
    found, open_since = window_by_window(scores, samples)
    assert len(found) == len(expected)
    assert [piece.start for piece in found] == pytest.approx([start for start, _ in expected])
    assert [piece.end for piece in found] == pytest.approx([end for _, end in expected])
    assert open_since == sorted(open_since)
    if loud and windows > 1:
        assert found
        assert all(piece.end - piece.start < 31 for piece in found)


def test_pieces_come_long_before_the_end():
    scores = talk(400, seed=0, loud=0.8)
    finder = SpeechFinder(GRID)
    first = next(index for index, window in enumerate(scores) if finder.feed(window))
    assert first * GRID.step / SAMPLE_RATE < 60


@pytest.mark.slow
def test_the_real_scores_in_shared_batches(librivox_clips):
    """WhisperX's own detector on a whole recording, and the same windows in batches with other ones."""
    import torch

    from service.transcription.speech import VoiceActivity
    from shared.media import decode_audio

    vad = Pyannote(torch.device("cpu"), vad_onset=ONSET, vad_offset=OFFSET)
    voice = VoiceActivity(vad)
    assert (voice.grid.window, voice.grid.step) == (GRID.window, GRID.step)
    assert voice.grid.frame_step == pytest.approx(GRID.frame_step)
    assert voice.grid.frame_duration == pytest.approx(GRID.frame_duration)
    clips = [decode_audio(clip.path.read_bytes()) for clip in librivox_clips]
    pause = np.zeros(int(1.3 * SAMPLE_RATE), np.float32)
    audio = np.concatenate([part for clip in clips * 2 for part in (clip, pause)])
    reference = vad({"waveform": torch.from_numpy(audio)[None], "sample_rate": SAMPLE_RATE})
    expected = Pyannote.merge_chunks(reference, 30, onset=ONSET, offset=OFFSET)

    count = voice.grid.windows_in(len(audio))
    padded = np.pad(audio, (0, voice.grid.window))
    windows = [
        padded[index * voice.grid.step : index * voice.grid.step + voice.grid.window]
        for index in range(count)
    ]
    finder = SpeechFinder(voice.grid)
    pieces = []
    for begin in range(0, count, 7):
        batch = windows[begin : begin + 7]
        for scores in voice.scores([*batch, clips[0][: voice.grid.window]])[: len(batch)]:
            pieces += finder.feed(scores)
    pieces += finder.finish(len(audio))
    assert [piece.start for piece in pieces] == pytest.approx([piece["start"] for piece in expected])
    assert [piece.end for piece in pieces] == pytest.approx([piece["end"] for piece in expected])
