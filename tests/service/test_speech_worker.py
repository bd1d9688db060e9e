"""The lives of the speech worker: killed, replaced, recycled, unloaded; no recording is lost by it."""

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

from service.transcription import Transcript, TranscriptionOptions, TranscriptionUnavailable
from shared.media import SAMPLE_RATE, decode_audio
from tests.transcribers import started

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]


@pytest.fixture(scope="session")
def speech(librivox_clips) -> list[tuple[np.ndarray, str]]:
    """`[samples]` and reference text of each clip."""
    return [(decode_audio(clip.path.read_bytes()), clip.text) for clip in librivox_clips]


async def until(condition, seconds: float = 200) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def word_error_rate(references: list[str], transcripts: list[Transcript]) -> float:
    heard = [re.sub(r"[^a-z' ]", "", each.text.lower().replace("-", " ")) for each in transcripts]
    return jiwer.wer(references, [re.sub(r"\bmr\b", "mister", text) for text in heard])


async def test_recordings_survive_a_killed_worker(speech):
    """One is half done, one is short, one waits: all go on in the next worker, and nothing is told twice."""
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    whole = np.concatenate([piece for audio, _ in 4 * speech for piece in (audio, pause)])
    told = []

    async with started(max_running=2, batch_size=1) as transcriber:

        async def listen() -> Transcript:
            async for event in transcriber.stream(whole):
                if isinstance(event, Transcript):
                    return event
                told.extend(event.segments)
            raise AssertionError("no transcript")

        pid = transcriber.worker_pid
        running = asyncio.create_task(listen())
        await until(lambda: told)
        short = asyncio.create_task(transcriber.transcribe(speech[0][0]))
        waiting = asyncio.create_task(transcriber.transcribe(speech[-1][0]))
        await until(lambda: transcriber.stats().running == 2)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not transcriber.ready)
        before = len(told)
        results = await asyncio.gather(running, short, waiting)
        assert transcriber.ready
        assert transcriber.worker_pid != pid
        stats = transcriber.stats()
    assert (stats.restarts, stats.completed, stats.failed) == (1, 3, 0)
    references = [" ".join(text for _, text in 4 * speech), speech[0][1], speech[-1][1]]
    assert word_error_rate(references, results) <= 0.08
    assert 0 < before < len(told)
    assert told == results[0].segments
    starts = [segment.start for segment in told]
    assert starts == sorted(starts)


async def test_speakers_survive_a_killed_worker(speech, diarisation_model):
    """The next worker needs the sound from the start again, but does not decode it again."""
    audio = np.concatenate([np.pad(each, (0, SAMPLE_RATE)) for each, _ in 3 * speech])
    async with started(diarisation_model=str(diarisation_model), batch_size=1) as transcriber:
        told = []

        async def listen() -> Transcript:
            async for event in transcriber.stream(audio, TranscriptionOptions(speakers=True)):
                if isinstance(event, Transcript):
                    return event
                told.extend(event.segments)
            raise AssertionError("no transcript")

        running = asyncio.create_task(listen())
        await until(lambda: told)
        os.kill(transcriber.worker_pid, signal.SIGKILL)
        transcript = await running
    assert word_error_rate([" ".join(text for _, text in 3 * speech)], [transcript]) <= 0.08
    assert all(segment.speaker for segment in transcript.segments)


async def test_a_recording_that_kills_workers_fails_alone(speech):
    """Killed while two run; then again while the long one runs by itself, which is then to blame."""
    async with started() as transcriber:
        first = transcriber.worker_pid
        long = asyncio.create_task(transcriber.transcribe(np.tile(speech[0][0], 40)))
        await until(lambda: transcriber.stats().running == 1)
        other = asyncio.create_task(transcriber.transcribe(np.tile(speech[1][0], 20)))
        await until(lambda: transcriber.stats().running == 2)
        os.kill(first, signal.SIGKILL)
        await until(lambda: transcriber.ready and transcriber.worker_pid != first)
        await until(lambda: transcriber.stats().running == 1)
        assert transcriber.stats().waiting == 1
        os.kill(transcriber.worker_pid, signal.SIGKILL)
        with pytest.raises(TranscriptionUnavailable, match="stopped twice"):
            await long
        assert (await other).text
        assert (await transcriber.transcribe(speech[-1][0])).text
        stats = transcriber.stats()
    assert (stats.restarts, stats.completed, stats.failed) == (2, 2, 1)


async def test_a_worker_killed_while_idle_is_replaced_before_anyone_asks(speech):
    async with started() as transcriber:
        pid = transcriber.worker_pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: transcriber.ready and transcriber.worker_pid not in (pid, None))
        assert not os.path.exists(f"/proc/{pid}")
        assert word_error_rate([speech[-1][1]], [await transcriber.transcribe(speech[-1][0])]) <= 0.06


async def test_recycling_loses_nothing(speech):
    async with started(restart_after=2) as transcriber:
        pids = {transcriber.worker_pid}

        async def transcribe(audio: np.ndarray) -> Transcript:
            transcript = await transcriber.transcribe(audio)
            pids.add(transcriber.worker_pid)
            return transcript

        transcripts = await asyncio.gather(*(transcribe(audio) for audio, _ in speech))
        stats = transcriber.stats()
    assert word_error_rate([text for _, text in speech], transcripts) <= 0.06
    assert (stats.completed, stats.failed, stats.restarts) == (5, 0, 2)
    assert len(pids - {None}) >= 2


async def test_an_idle_model_is_unloaded_and_comes_back(speech):
    async with started(unload_after=0.5) as transcriber:
        pid = transcriber.worker_pid
        await until(lambda: transcriber.worker_pid is None)
        assert transcriber.ready
        assert transcriber.languages == {"en"}
        assert not os.path.exists(f"/proc/{pid}")
        assert word_error_rate([speech[-1][1]], [await transcriber.transcribe(speech[-1][0])]) <= 0.06
        assert transcriber.stats().restarts == 0
        await until(lambda: transcriber.worker_pid is None)
        assert transcriber.ready


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
