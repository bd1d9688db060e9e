"""Human speech through the real worker process: what is heard, and what happens when the worker is gone."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time

import jiwer
import numpy as np
import pytest
import pytest_asyncio

from service.settings import TranscriptionSettings
from service.transcription import (
    Transcriber,
    Transcript,
    TranscriptionTimeout,
    TranscriptionUnavailable,
    UnsupportedLanguage,
)
from shared.media import SAMPLE_RATE, decode_audio

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
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
    transcript = await transcriber.transcribe(whole, word_timestamps=True)
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
    transcript = await transcriber.transcribe(np.zeros(samples, np.float32), word_timestamps=True)
    assert (transcript.text, transcript.segments) == ("", [])
    assert transcript.duration == pytest.approx(samples / SAMPLE_RATE)


async def test_noise_is_an_empty_transcript(transcriber):
    noise = np.random.default_rng(0).normal(0, 0.01, 4 * SAMPLE_RATE).astype(np.float32)
    assert (await transcriber.transcribe(noise)).text == ""


async def test_a_language_the_model_does_not_know(transcriber, speech):
    with pytest.raises(UnsupportedLanguage, match="'fr'"):
        await transcriber.transcribe(speech[0][0], language="fr")
    assert (await transcriber.transcribe(speech[-1][0], language="en")).text


async def test_concurrent_recordings_get_their_own_answers_in_order(transcriber, speech):
    finished = []

    async def transcribe(index: int) -> Transcript:
        transcript = await transcriber.transcribe(speech[index][0])
        finished.append(index)
        return transcript

    transcripts = await asyncio.gather(*(transcribe(index) for index in range(len(speech))))
    assert finished == list(range(len(speech)))
    assert word_error_rate([text for _, text in speech], transcripts) <= 0.06


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


async def test_a_killed_worker_fails_its_recording_and_is_replaced(transcriber, speech):
    pid, restarts = transcriber.worker_pid, transcriber.stats().restarts
    running = asyncio.create_task(transcriber.transcribe(np.tile(speech[0][0], 20)))
    while not transcriber.stats().running:
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(transcriber.transcribe(speech[-1][0]))
    await asyncio.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TranscriptionUnavailable, match="Try again"):
        await running
    assert not transcriber.ready
    assert word_error_rate([speech[-1][1]], [await waiting]) <= 0.06
    assert transcriber.ready
    assert transcriber.worker_pid != pid
    assert transcriber.stats().restarts == restarts + 1


async def test_a_worker_killed_while_idle_is_replaced_before_anyone_asks(transcriber):
    pid = transcriber.worker_pid
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(200):
        while transcriber.worker_pid in (pid, None) or not transcriber.ready:
            await asyncio.sleep(0.05)


async def test_a_transcription_past_its_time_is_given_up(speech):
    transcriber = Transcriber(TranscriptionSettings(timeout=0.01))
    await transcriber.start()
    try:
        with pytest.raises(TranscriptionTimeout, match="too long"):
            await transcriber.transcribe(np.tile(speech[0][0], 20))
    finally:
        await transcriber.stop()


async def test_a_model_that_cannot_be_loaded_is_named():
    transcriber = Transcriber(TranscriptionSettings(model="no-such-size"))
    with pytest.raises(TranscriptionUnavailable, match="no-such-size"):
        await transcriber.start()
    assert not transcriber.alive
    with pytest.raises(TranscriptionUnavailable):
        await transcriber.transcribe(np.zeros(SAMPLE_RATE, np.float32))
    await transcriber.stop()


LIFE = """
import asyncio, sys
from service.settings import TranscriptionSettings
from service.transcription import Transcriber

async def main():
    transcriber = Transcriber(TranscriptionSettings())
    await transcriber.start()
    heavy = {"torch", "transformers", "whisperx", "faster_whisper", "ctranslate2"} & set(sys.modules)
    print(transcriber.worker_pid, sorted(heavy), flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_the_worker_alone_loads_the_model_and_ends_with_its_parent(tmp_path, repository):
    script = tmp_path / "parent.py"
    script.write_text(LIFE)
    environment = os.environ | {"PYTHONPATH": str(repository)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        pid, heavy = (await asyncio.to_thread(parent.stdout.readline)).split(maxsplit=1)
        assert heavy.strip() == "[]"
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert not os.path.exists(f"/proc/{pid}")
