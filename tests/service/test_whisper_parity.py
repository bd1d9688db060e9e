"""The same recordings through other people's loops over the same model: plain WhisperX, and faster-whisper."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

import jiwer
import numpy as np
import pytest
import pytest_asyncio

from service.settings import TranscriptionSettings
from service.transcription import Transcriber, TranscriptionOptions
from shared.media import SAMPLE_RATE, decode_audio

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest.fixture(scope="module")
def speech(librivox_clips) -> list[tuple[np.ndarray, str]]:
    return [(decode_audio(clip.path.read_bytes()), clip.text) for clip in librivox_clips]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def transcriber():
    transcriber = Transcriber(TranscriptionSettings())
    await transcriber.start()
    yield transcriber
    await transcriber.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exact_transcriber():
    """In float32: int8's rounding differs between CPUs, and may decide whether a pause is a comma's or a word's."""
    transcriber = Transcriber(TranscriptionSettings(compute_type="float32"))
    await transcriber.start()
    yield transcriber
    await transcriber.stop()


def normalised(text: str) -> str:
    words = re.sub(r"[^a-z' ]", "", text.lower().replace("-", " "))
    return re.sub(r"\bmr\b", "mister", words)


def matching(ours: list[tuple], theirs: list[tuple]) -> list[tuple[tuple, tuple]]:
    """Pairs of the same word, where the texts differ."""
    words = [[normalised(word) for word, *_ in side] for side in (ours, theirs)]
    blocks = SequenceMatcher(None, *words, autojunk=False).get_matching_blocks()
    return [(ours[i + n], theirs[j + n]) for i, j, size in blocks for n in range(size)]


async def test_the_words_are_plain_whisperxs(transcriber, speech):
    """One at a time, so that no batch differs: clip by clip, and all clips joined to more than a minute."""
    import torch
    import whisperx

    from service.transcription.whisper import model_location

    torch.set_num_threads(1)
    plain = whisperx.load_model(
        model_location("embedded"), "cpu", compute_type="int8", language="en", threads=1
    )
    pause = np.zeros(SAMPLE_RATE, np.float32)
    joined = np.concatenate([part for audio, _ in 3 * speech for part in (audio, pause)])
    references = [text for _, text in speech] + [" ".join(text for _, text in 3 * speech)]
    ours, theirs = [], []
    for audio in [*(audio for audio, _ in speech), joined]:
        transcript = await transcriber.transcribe(audio)
        result = plain.transcribe(audio, batch_size=8, language="en")["segments"]
        ours.append(normalised(transcript.text))
        theirs.append(normalised("".join(segment["text"] for segment in result)))
        assert [segment.start for segment in transcript.segments] == pytest.approx(
            [segment["start"] for segment in result], abs=0.001
        )
    assert jiwer.wer(references, ours) == pytest.approx(jiwer.wer(references, theirs), abs=0.005)
    assert jiwer.wer(references[:-1], ours[:-1]) <= 0.06


def whole_words(parts: Iterable) -> list[tuple[str, float, float]]:
    """Words with their times; faster-whisper has "cold" and "-hearted" apart."""
    words: list[tuple[str, float, float]] = []
    for part in parts:
        if words and not part.word.startswith(" "):
            word, start, _ = words.pop()
            words.append((word + part.word, start, part.end))
        else:
            words.append((part.word.strip(), part.start, part.end))
    return words


def faster_whispers_words(clips: list[np.ndarray], compute_type: str) -> list[list[tuple[str, float, float]]]:
    import faster_whisper

    from service.transcription.whisper import model_location

    model = faster_whisper.WhisperModel(
        model_location("embedded"), "cpu", compute_type=compute_type, cpu_threads=1
    )
    heard = [model.transcribe(clip, language="en", beam_size=5, word_timestamps=True) for clip in clips]
    return [whole_words(word for each in segments for word in each.words) for segments, _ in heard]


async def test_word_times_are_faster_whispers(transcriber, speech):
    heard = [
        await transcriber.transcribe(clip, TranscriptionOptions(word_timestamps=True)) for clip, _ in speech
    ]
    assert all(each.alignment == "whisper" for each in heard)
    pieces = [piece for each in heard for piece in each.segments]
    assert len(pieces) == len(speech)  # each clip without the silence around it
    cuts = [
        clip[int(piece.start * SAMPLE_RATE) : int(piece.end * SAMPLE_RATE)]
        for (clip, _), piece in zip(speech, pieces, strict=True)
    ]
    differences = []
    for piece, expected in zip(pieces, faster_whispers_words(cuts, "int8"), strict=True):
        found = [(word.word, word.start - piece.start, word.end - piece.start) for word in piece.words]
        same = matching(found, expected)
        assert len(same) >= 0.8 * len(expected)
        differences += [abs(ours[1] - theirs[1]) for ours, theirs in same]
        differences += [abs(ours[2] - theirs[2]) for ours, theirs in same]
    assert max(differences) <= 0.15


async def test_word_times_of_whole_clips_are_faster_whispers(exact_transcriber, speech):
    """All but the start of the first word: the path through Whisper's attention begins with the sound, so
    faster-whisper says 0 there, whatever silence leads; here the sound begins where speech was found."""
    differences = []
    clips = [clip for clip, _ in speech]
    for clip, expected in zip(clips, faster_whispers_words(clips, "float32"), strict=True):
        heard = await exact_transcriber.transcribe(clip, TranscriptionOptions(word_timestamps=True))
        found = [(word.word, word.start, word.end) for each in heard.segments for word in each.words]
        same = matching(found, expected)
        assert len(same) >= 0.8 * len(expected)
        assert (found[0][1], expected[0][1]) == (heard.segments[0].start, 0)
        differences += [abs(ours[1] - theirs[1]) for ours, theirs in same if theirs is not expected[0]]
        differences += [abs(ours[2] - theirs[2]) for ours, theirs in same]
    assert max(differences) <= 0.15
