"""Models that operators may add: other Whispers, alignment by wav2vec2, diarisation by pyannote."""

import asyncio

import numpy as np
import pytest

from service.settings import TranscriptionSettings
from service.transcription import Transcriber, TranscriptionOptions, TranscriptionUnavailable
from shared.media import SAMPLE_RATE, decode_audio
from tests.transcribers import started

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

WORDS = TranscriptionOptions(word_timestamps=True)


@pytest.fixture(scope="session")
def clip(librivox_clips) -> np.ndarray:
    return decode_audio(librivox_clips[3].path.read_bytes())


async def test_a_multilingual_whisper(multilingual_whisper, clip):
    """Language given or detected, both tasks, different languages in one batch."""
    async with started(model=str(multilingual_whisper)) as transcriber:
        assert {"en", "fr", "ja"} < transcriber.languages
        detected = await transcriber.transcribe(clip)
        assert detected.language in transcriber.languages
        english = TranscriptionOptions(language="en")
        assert "respectable" in (await transcriber.transcribe(clip, english)).text
        options = [TranscriptionOptions(language=language, word_timestamps=True) for language in ("fr", "en")]
        options.append(WORDS)
        batches = transcriber.stats().batches
        answers = await asyncio.gather(*(transcriber.transcribe(clip, each) for each in options))
        assert transcriber.stats().batches - batches < len(options)
        assert [answer.language for answer in answers[:2]] == ["fr", "en"]
        assert answers[2].language == detected.language
        for answer in answers:
            assert answer.alignment == "whisper"
            assert all(segment.words for segment in answer.segments)
        translated = await transcriber.transcribe(clip, TranscriptionOptions(task="translate"))
        assert translated.task == "translate"


async def test_words_are_timed_by_the_alignment_model(alignment_model, clip):
    async with started(align_model=str(alignment_model)) as transcriber:
        transcript = await transcriber.transcribe(clip, WORDS)
        assert transcript.alignment == "wav2vec2"
        assert (await transcriber.transcribe(clip)).alignment is None
    words = [word for segment in transcript.segments for word in segment.words]
    assert " ".join(word.word for word in words) == transcript.text
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= transcript.duration for word in words)


@pytest.mark.parametrize("name", ["no-such-model", "auto"])
async def test_without_the_alignment_model_words_are_whispers(name: str, clip):
    """`auto` is WhisperX's own choice, which is a download, and tests are offline."""
    async with started(align_model=name) as transcriber:
        transcript = await transcriber.transcribe(clip, WORDS)
    assert transcript.alignment == "whisper"
    assert transcript.segments[0].words


async def test_speakers(diarisation_model, clip):
    audio = np.concatenate([clip, np.zeros(SAMPLE_RATE, np.float32), clip])
    async with started(diarisation_model=str(diarisation_model)) as transcriber:
        transcript = await transcriber.transcribe(audio, TranscriptionOptions(speakers=True))
        assert transcript.segments
        assert transcript.segments[0].speaker == "A"
        for segment in transcript.segments:
            assert {word.speaker for word in segment.words} == {segment.speaker}
        plain = await transcriber.transcribe(audio)
        assert [segment.speaker for segment in plain.segments] == [None] * len(plain.segments)
        assert transcript.text == plain.text
        silent = np.zeros(3 * SAMPLE_RATE, np.float32)
        silent[::800] = 1e-4
        assert (await transcriber.transcribe(silent, TranscriptionOptions(speakers=True))).segments == []


async def test_a_diarisation_model_that_cannot_be_loaded_is_named():
    transcriber = Transcriber(TranscriptionSettings(diarisation_model="no/such-pipeline"))
    with pytest.raises(TranscriptionUnavailable, match=r"no/such-pipeline|diarisation"):
        await transcriber.start()
    await transcriber.stop()
