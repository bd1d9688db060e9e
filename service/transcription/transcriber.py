"""The async face of transcription: a queue in front of one worker process, and the worker's restarts.

Recordings are transcribed one at a time, first come, first served. A worker that dies fails the recording
it had (the client may try again) and is replaced; recordings that wait do not notice. A recording whose
client is gone leaves the queue, or stops at the next batch.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from service.settings import TranscriptionSettings
from service.transcription.process import WorkerDied, WorkerProcess
from service.transcription.transcript import Transcript
from service.transcription.worker import Cancelled, Failed, Job

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between attempts to start a worker that does not start; the pause doubles."""


class TranscriptionError(Exception):
    """The recording was not transcribed. `str(error)` is a message for the client."""


class TranscriptionUnavailable(TranscriptionError):
    """No worker, or it died over this recording: trying again later makes sense."""


class TranscriptionBusy(TranscriptionError):
    """Too many recordings are waiting."""


class TranscriptionTimeout(TranscriptionError):
    """The recording took longer than the operator allows."""


class UnsupportedLanguage(TranscriptionError):
    """The loaded Whisper model does not know the language."""


@dataclass
class TranscriberStats:
    """Counters since the start, and the state now."""

    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    restarts: int = 0
    audio_seconds: float = 0.0
    """Length of what was transcribed."""
    busy_seconds: float = 0.0
    """Wall-clock time the worker spent on it."""


@dataclass(eq=False)
class _Waiting:
    job: Job
    audio: np.ndarray
    answer: asyncio.Future[Transcript] = field(repr=False)


class Transcriber:
    """Transcribes with WhisperX in a worker process.

    `start()` and `stop()` frame its life; all methods belong to one event loop.
    """

    def __init__(self, settings: TranscriptionSettings) -> None:
        self._settings = settings
        self._ids = itertools.count(1)
        self._queue: deque[_Waiting] = deque()
        self._current: _Waiting | None = None
        self._wake = asyncio.Event()
        self._worker: WorkerProcess | None = None
        self._languages: frozenset[str] = frozenset()
        self._loaded = False
        self._trouble: str | None = "it has not been started"
        self._supervisor: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transcription")
        self._stats = TranscriberStats()

    @property
    def ready(self) -> bool:
        """A model is loaded and takes recordings."""
        return self._loaded and self.alive

    @property
    def alive(self) -> bool:
        """The worker process runs, though it may still be loading."""
        return self._worker is not None and self._worker.alive

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, for its memory in the metrics."""
        return self._worker.pid if self._worker is not None else None

    @property
    def languages(self) -> frozenset[str]:
        """Codes of the languages that the loaded model knows; empty until one is loaded."""
        return self._languages

    def stats(self) -> TranscriberStats:
        self._stats.waiting = len(self._queue)
        self._stats.running = int(self._current is not None)
        return self._stats

    async def start(self) -> None:
        """Start the worker and wait until its model is loaded.

        Raises:
            TranscriptionUnavailable: the model could not be loaded; the message tells the operator why.
        """
        self._trouble = None
        try:
            await self._start_worker()
        except (WorkerDied, TimeoutError) as error:
            self._thread.shutdown(wait=False)
            self._trouble = "its model could not be loaded"
            raise TranscriptionUnavailable(
                f"The speech model {self._settings.model!r} could not be loaded: {_reason(error)}"
            ) from None
        except BaseException:  # cancelled: no process may stay behind
            self._thread.shutdown(wait=False)
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="transcription supervisor")

    async def stop(self) -> None:
        """End the worker; recordings that wait or run fail as unavailable."""
        self._trouble = "the service is shutting down"
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._fail_waiting()
        await self._close_worker()
        self._thread.shutdown(wait=True)

    async def transcribe(
        self, audio: np.ndarray, *, language: str | None = None, word_timestamps: bool = False
    ) -> Transcript:
        """Transcribe mono 16 kHz float32 `[samples]`; silence gives an empty transcript.

        Cancelling the caller takes the recording out of the queue or stops the work on it.

        Raises:
            TranscriptionError: one of its kinds above.
        """
        if self._trouble is not None:
            raise TranscriptionUnavailable(f"Speech cannot be transcribed now: {self._trouble}.")
        if language is not None and self._languages and language not in self._languages:
            known = ", ".join(sorted(self._languages))
            raise UnsupportedLanguage(
                f"The speech model does not know the language {language!r}, only: {known}."
            )
        if len(self._queue) >= self._settings.max_waiting:
            raise TranscriptionBusy("Too many recordings are waiting to be transcribed. Try again later.")
        job = Job(next(self._ids), len(audio), language, word_timestamps)
        waiting = _Waiting(
            job, np.ascontiguousarray(audio, np.float32), asyncio.get_running_loop().create_future()
        )
        self._queue.append(waiting)
        self._wake.set()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            self._stats.cancelled += 1
            if waiting is self._current and self._worker is not None:
                self._worker.cancel(job.id)
            elif waiting in self._queue:
                self._queue.remove(waiting)
            raise

    async def _supervise(self) -> None:
        """Serve the queue with the running worker; replace the worker when it is gone or due."""
        pause = _FIRST_PAUSE
        while True:
            if self._worker is not None:
                await self._serve()
                await self._close_worker()
                self._stats.restarts += 1
            try:
                await self._start_worker()
            except (WorkerDied, TimeoutError) as error:
                logger.error("the speech worker does not start, again in %.0f s: %s", pause, _reason(error))
                self._trouble = "its worker does not start"
                self._fail_waiting()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._trouble, pause = None, _FIRST_PAUSE

    async def _start_worker(self) -> None:
        started = time.monotonic()
        self._worker = await self._in_thread(WorkerProcess, self._settings)
        try:
            self._languages = await self._in_thread(self._worker.wait_ready, self._settings.start_timeout)
        except BaseException:
            await self._close_worker()
            raise
        self._loaded = True
        seconds = time.monotonic() - started
        logger.info("speech model %r loaded in %.1f s", self._settings.model, seconds)

    async def _close_worker(self) -> None:
        worker, self._worker, self._loaded = self._worker, None, False
        if worker is not None:
            worker.kill()
            await self._in_thread(worker.close)

    async def _serve(self) -> None:
        """Work through the queue until the worker is gone or has done its share."""
        loop = asyncio.get_running_loop()
        sentinel = self._worker.sentinel
        loop.add_reader(sentinel, self._wake.set)
        try:
            done = 0
            while self._worker.alive:
                self._wake.clear()
                if not self._queue:
                    await self._wake.wait()
                    continue
                self._current = self._queue.popleft()
                try:
                    usable = await self._run(self._current)
                finally:
                    self._current = None
                done += 1
                if not usable or done == self._settings.restart_after:
                    return
            logger.error("the speech worker died while idle; it is replaced")
        finally:
            loop.remove_reader(sentinel)

    async def _run(self, waiting: _Waiting) -> bool:
        """Transcribe one recording; returns whether the worker can go on."""
        started = time.monotonic()
        try:
            answer = await self._in_thread(
                self._worker.transcribe, waiting.job, waiting.audio, self._settings.timeout
            )
        except WorkerDied as error:
            logger.error("the speech worker died at work (%s); it is replaced", error)
            message = "The speech worker stopped while it transcribed this audio. Try again."
            self._fail(waiting, TranscriptionUnavailable(message))
            return False
        except TimeoutError:
            logger.error(
                "a transcription took more than %g s; the worker is replaced", self._settings.timeout
            )
            self._fail(
                waiting, TranscriptionTimeout("The audio takes too long to transcribe. Send less of it.")
            )
            return False
        except asyncio.CancelledError:  # stop()
            self._fail(waiting, TranscriptionUnavailable("The service is shutting down."))
            raise
        if isinstance(answer, Failed):
            logger.error("transcription failed: %s", answer.reason)
            self._fail(waiting, TranscriptionError("The audio could not be transcribed."))
        elif not isinstance(answer, Cancelled):
            self._stats.completed += 1
            self._stats.audio_seconds += answer.duration
            self._stats.busy_seconds += time.monotonic() - started
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
        return True

    def _fail(self, waiting: _Waiting, error: TranscriptionError) -> None:
        self._stats.failed += 1
        if not waiting.answer.done():
            waiting.answer.set_exception(error)

    def _fail_waiting(self) -> None:
        while self._queue:
            self._fail(
                self._queue.popleft(),
                TranscriptionUnavailable(f"Speech cannot be transcribed now: {self._trouble}."),
            )

    async def _in_thread(self, call: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def _reason(error: Exception) -> str:
    return str(error) or "it took too long"
