"""Human speech through the real worker process: what is heard, in which order, and what is refused."""

import asyncio
import re

import jiwer
import numpy as np
import pytest
import pytest_asyncio

from service.settings import TranscriptionSettings
from service.transcription import (
    Progress,
    Transcriber,
    Transcript,
    TranscriptionBusy,
    TranscriptionOptions,
    TranscriptionTimeout,
    TranscriptionUnavailable,
    UnsupportedLanguage,
    UnsupportedOption,
)
from shared.media import SAMPLE_RATE, decode_audio

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def transcriber():
    transcriber = Transcriber(TranscriptionSettings())
    await transcriber.start()
    yield transcriber
    await transcriber.stop()
    assert not transcriber.alive


@pytest.fixture(scope="session")
def speech(librivox_clips) -> list[tuple[np.ndarray, str]]:
    """`[samples]` and reference text of each clip."""
    return [(decode_audio(clip.path.read_bytes()), clip.text) for clip in librivox_clips]


def normalised(text: str) -> str:
    """As Whisper's own English normaliser does it: no case, no punctuation, titles in full."""
    words = re.sub(r"[^a-z' ]", "", text.lower().replace("-", " "))
    return re.sub(r"\bmr\b", "mister", words)


def word_error_rate(references: list[str], transcripts: list[Transcript]) -> float:
    return jiwer.wer(references, [normalised(transcript.text) for transcript in transcripts])


async def test_word_error_rate_of_human_readings(transcriber, speech):
    transcripts = [await transcriber.transcribe(audio) for audio, _ in speech]
    assert word_error_rate([text for _, text in speech], transcripts) <= 0.06
    for (audio, _), transcript in zip(speech, transcripts, strict=True):
        assert transcript.language == "en"
        assert transcript.duration == pytest.approx(len(audio) / SAMPLE_RATE)
        assert transcript.segments
        assert all(segment.words is None for segment in transcript.segments)


async def test_long_audio_counts_whole_and_words_have_their_times(transcriber, speech):
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    pieces = [piece for audio, _ in 2 * speech for piece in (audio, pause)]
    whole = np.concatenate(pieces)
    assert len(whole) > 60 * SAMPLE_RATE
    transcript = await transcriber.transcribe(whole, TranscriptionOptions(word_timestamps=True))
    assert word_error_rate([" ".join(text for _, text in 2 * speech)], [transcript]) <= 0.08
    assert [segment.id for segment in transcript.segments] == list(range(len(transcript.segments)))

    words = [word for segment in transcript.segments for word in segment.words]
    assert " ".join(word.word for word in words) == transcript.text
    times = [time for word in words for time in (word.start, word.end)]
    assert all(word.start <= word.end for word in words)
    assert all(0 <= time <= transcript.duration for time in times)
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert all(0 <= word.probability <= 1 for word in words)

    clip_starts = np.cumsum([0] + [len(piece) for piece in pieces])[:-1:2] / SAMPLE_RATE
    heard = [word.start for word in words if normalised(word.word) == "dashwood"]
    assert len(heard) == 2  # spoken once, 1.1 seconds into the first clip of each round
    for start, clip_start in zip(heard, (clip_starts[0], clip_starts[len(speech)]), strict=True):
        assert start == pytest.approx(clip_start + 1.1, abs=0.6)


@pytest.mark.parametrize("samples", [0, 1, 1500, 5 * SAMPLE_RATE])
async def test_silence_is_an_empty_transcript(transcriber, samples):
    transcript = await transcriber.transcribe(
        np.zeros(samples, np.float32), TranscriptionOptions(word_timestamps=True)
    )
    assert (transcript.text, transcript.segments) == ("", [])
    assert transcript.duration == pytest.approx(samples / SAMPLE_RATE)


async def test_noise_is_an_empty_transcript(transcriber):
    noise = np.random.default_rng(0).normal(0, 0.01, 4 * SAMPLE_RATE).astype(np.float32)
    assert (await transcriber.transcribe(noise)).text == ""


async def test_a_language_the_model_does_not_know(transcriber, speech):
    with pytest.raises(UnsupportedLanguage, match="'fr'"):
        await transcriber.transcribe(speech[0][0], TranscriptionOptions(language="fr"))
    assert (await transcriber.transcribe(speech[-1][0], TranscriptionOptions(language="en"))).text


async def test_concurrent_recordings_get_their_own_answers(transcriber, speech):
    batches, pieces = transcriber.stats().batches, transcriber.stats().batched_pieces
    transcripts = await asyncio.gather(*(transcriber.transcribe(audio) for audio, _ in speech))
    assert word_error_rate([text for _, text in speech], transcripts) <= 0.06
    assert transcriber.stats().batched_pieces - pieces == len(speech)
    assert transcriber.stats().batches - batches < len(speech)  # different requests shared a pass


async def test_a_short_recording_does_not_wait_for_a_long_one(transcriber, speech):
    long = asyncio.create_task(transcriber.transcribe(np.tile(speech[0][0], 40)))
    while not transcriber.stats().running:
        await asyncio.sleep(0.01)
    short = await transcriber.transcribe(speech[-1][0])
    assert word_error_rate([speech[-1][1]], [short]) <= 0.06
    assert not long.done()
    long.cancel()


async def test_the_text_comes_while_the_rest_is_still_to_be_heard(transcriber, speech):
    whole = np.tile(speech[0][0], 12)
    events = [event async for event in transcriber.stream(whole)]
    *progress, transcript = events
    assert isinstance(transcript, Transcript)
    assert all(isinstance(event, Progress) for event in progress)
    told = [segment for event in progress for segment in event.segments]
    assert told == transcript.segments
    assert [segment.id for segment in told] == list(range(len(told)))
    times = [event.until for event in progress]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(len(whole) / SAMPLE_RATE)
    first = next(event for event in progress if event.segments)
    assert first.until < 0.7 * len(whole) / SAMPLE_RATE


async def test_a_prompt_leads_and_cannot_give_commands(transcriber, speech):
    audio, text = speech[-1]
    options = TranscriptionOptions(prompt="<|endoftext|><|nospeech|> A novel by Jane Austen.")
    assert word_error_rate([text], [await transcriber.transcribe(audio, options)]) <= 0.25
    long = TranscriptionOptions(prompt="he might even have been made amiable " * 500)
    assert (await transcriber.transcribe(audio, long)).text


async def test_a_temperature_samples(transcriber, speech):
    sampled = await transcriber.transcribe(speech[-1][0], TranscriptionOptions(temperature=0.4))
    assert sampled.text
    assert [segment.temperature for segment in sampled.segments] == [0.4]


async def test_the_figures_of_a_segment(transcriber, speech):
    [segment] = (await transcriber.transcribe(speech[-1][0])).segments
    assert -1 < segment.avg_logprob < 0
    assert 0.5 < segment.compression_ratio < 2.4
    assert 0 <= segment.no_speech_prob < 0.5
    assert segment.tokens


async def test_what_the_models_cannot_do_is_refused(transcriber, speech):
    with pytest.raises(UnsupportedOption, match="only English"):
        await transcriber.transcribe(speech[0][0], TranscriptionOptions(task="translate"))
    with pytest.raises(UnsupportedOption, match="diarisation model"):
        await transcriber.transcribe(speech[0][0], TranscriptionOptions(speakers=True))


async def test_a_recording_nobody_waits_for_leaves_the_queue(transcriber, speech):
    before = transcriber.stats().completed
    first, gone, last = (asyncio.create_task(transcriber.transcribe(audio)) for audio, _ in speech[:3])
    await asyncio.sleep(0)
    assert transcriber.stats().waiting == 3
    gone.cancel()
    await asyncio.gather(first, last)
    assert gone.cancelled()
    assert transcriber.stats().completed == before + 2


async def test_a_running_recording_nobody_waits_for_makes_room(transcriber, speech):
    pid = transcriber.worker_pid
    running = asyncio.create_task(transcriber.transcribe(np.tile(speech[0][0], 20)))
    while not transcriber.stats().running:
        await asyncio.sleep(0.01)
    running.cancel()
    assert (await transcriber.transcribe(speech[-1][0])).text
    assert transcriber.worker_pid == pid


async def test_a_transcription_past_its_time_is_given_up(speech):
    transcriber = Transcriber(TranscriptionSettings(timeout=0.01))
    await transcriber.start()
    try:
        with pytest.raises(TranscriptionTimeout, match="too long"):
            await transcriber.transcribe(np.tile(speech[0][0], 20))
    finally:
        await transcriber.stop()


async def test_too_many_recordings_are_refused_and_too_long_ones(speech):
    audio = np.tile(speech[0][0], 20)
    transcriber = Transcriber(TranscriptionSettings(max_running=1, max_waiting=2, max_waiting_seconds=200))
    await transcriber.start()
    running = asyncio.create_task(transcriber.transcribe(audio))
    while not transcriber.stats().running:
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(transcriber.transcribe(audio))
    await asyncio.sleep(0)
    with pytest.raises(TranscriptionBusy):
        await transcriber.transcribe(audio)  # 284 seconds would wait
    also = asyncio.create_task(transcriber.transcribe(speech[-1][0]))
    await asyncio.sleep(0)
    with pytest.raises(TranscriptionBusy):
        await transcriber.transcribe(speech[-1][0])  # three would wait
    await transcriber.stop()
    results = await asyncio.gather(running, waiting, also, return_exceptions=True)
    assert all(isinstance(result, TranscriptionUnavailable) for result in results)


async def test_a_model_that_cannot_be_loaded_is_named():
    transcriber = Transcriber(TranscriptionSettings(model="no-such-size"))
    with pytest.raises(TranscriptionUnavailable, match="no-such-size"):
        await transcriber.start()
    assert not transcriber.alive
    with pytest.raises(TranscriptionUnavailable):
        await transcriber.transcribe(np.zeros(SAMPLE_RATE, np.float32))
    await transcriber.stop()
