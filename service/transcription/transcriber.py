"""The async face of transcription: a queue in front of one worker process, and the worker's replacements.

The worker has several recordings at a time and batches their speech. A worker that dies is replaced, and the
recordings it had go on where they were, one at a time, so that one which kills its worker again is found and
fails alone. A worker that has done its share is replaced once it is empty. A recording whose client is gone
leaves the queue, or the worker at its next step.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Literal, TypeVar

import numpy as np

from service.settings import TranscriptionSettings
from service.transcription.failures import (
    TranscriptionBusy,
    TranscriptionUnavailable,
    UnsupportedLanguage,
    UnsupportedOption,
)
from service.transcription.pending import Pending, Progress
from service.transcription.process import WorkerDied, WorkerProcess
from service.transcription.shift import Shift
from service.transcription.stats import TranscriberStats
from service.transcription.transcript import PLAIN, Transcript, TranscriptionOptions
from shared.media import SAMPLE_RATE

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between attempts to start a worker that does not start; the pause doubles."""
_MIN_SAMPLES = SAMPLE_RATE // 10


class Transcriber:
    """Transcribes with WhisperX in a worker process.

    `start()` and `stop()` frame its life; all methods belong to one event loop.
    """

    def __init__(self, settings: TranscriptionSettings) -> None:
        self._settings = settings
        self._ids = itertools.count(1)
        self._queue: deque[Pending] = deque()
        self._wake = asyncio.Event()
        self._worker: WorkerProcess | None = None
        self._shift: Shift | None = None
        self._languages: frozenset[str] = frozenset()
        self._meant = False  # that there is no worker now
        self._trouble: str | None = "it has not been started"
        self._supervisor: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transcription")
        self._stats = TranscriberStats()
        self._busy_since: float | None = None

    @property
    def ready(self) -> bool:
        """Recordings are taken: a model is loaded, or will be, after a worker that was unloaded or did its share."""
        return self._meant or (self._shift is not None and self._shift.alive)

    @property
    def alive(self) -> bool:
        """The worker process runs, though it may still be loading."""
        return self._worker is not None and self._worker.alive

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, for its memory in the metrics; None while there is none."""
        return self._worker.pid if self._worker is not None else None

    @property
    def languages(self) -> frozenset[str]:
        """Codes of the languages that the model knows; empty until one was loaded."""
        return self._languages

    def stats(self) -> TranscriberStats:
        self._count_busy_time()
        self._stats.waiting = len(self._queue)
        self._stats.running = len(self._shift.running) if self._shift is not None else 0
        return self._stats

    async def start(self) -> None:
        """Start the worker and wait until its model is loaded.

        Raises:
            TranscriptionUnavailable: the model could not be loaded; the message tells the operator why.
        """
        self._trouble = None
        try:
            await self._begin_shift()
        except (WorkerDied, OSError) as error:  # TimeoutError, and no memory or files for a process
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
        if self._shift is not None:
            self._queue.extend(self._shift.running.values())
            self._shift.running.clear()
        self._fail_waiting()
        await self._end_shift()
        self._thread.shutdown(wait=True)

    async def transcribe(self, audio: np.ndarray, options: TranscriptionOptions = PLAIN) -> Transcript:
        """Transcribe mono 16 kHz float32 `[samples]`; silence gives an empty transcript.

        Cancelling the caller takes the recording out of the queue or stops the work on it.

        Raises:
            TranscriptionError: one of its kinds above.
        """
        async with aclosing(self.stream(audio, options)) as events:
            async for event in events:
                if isinstance(event, Transcript):
                    return event
        raise AssertionError("a stream ends with its transcript")

    async def stream(
        self, audio: np.ndarray, options: TranscriptionOptions = PLAIN
    ) -> AsyncGenerator[Progress | Transcript]:
        """As `transcribe`, but tells what is heard as it goes; the last event is the whole `Transcript`.

        Segments that were told have no speakers yet; those of the transcript have.
        """
        self._check(audio, options)
        if len(audio) < _MIN_SAMPLES or not audio.any():
            language = options.language or self._settings.language or "en"
            yield Transcript("", language, len(audio) / SAMPLE_RATE, task=options.task)
            return
        pending = Pending(next(self._ids), np.ascontiguousarray(audio, np.float32), options)
        self._queue.append(pending)
        self._wake.set()
        try:
            while True:
                event = await pending.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Transcript):
                    return
        finally:
            self._let_go(pending)

    def _check(self, audio: np.ndarray, options: TranscriptionOptions) -> None:
        if self._trouble is not None:
            raise TranscriptionUnavailable(f"Speech cannot be transcribed now: {self._trouble}.")
        if options.language is not None and self.languages and options.language not in self.languages:
            known = ", ".join(sorted(self.languages))
            raise UnsupportedLanguage(
                f"The speech model does not know the language {options.language!r}, only: {known}."
            )
        if options.task == "translate" and len(self.languages) == 1:
            raise UnsupportedOption(
                "The speech model knows only English, so there is nothing to translate. "
                "Ask for a transcription, or load a multilingual Whisper.",
                "task",
            )
        if options.speakers and self._settings.diarisation_model is None:
            raise UnsupportedOption(
                "This service cannot tell speakers apart: its operator has not given a diarisation model.",
                "speakers",
            )
        held = sum(waiting.seconds for waiting in self._queue)
        seconds = len(audio) / SAMPLE_RATE
        if len(self._queue) >= self._settings.max_waiting or (
            self._queue and held + seconds > self._settings.max_waiting_seconds
        ):
            raise TranscriptionBusy("Too many recordings are waiting to be transcribed. Try again later.")

    def _let_go(self, pending: Pending) -> None:
        """The client has what it wanted, or is gone."""
        if pending.ended:
            return
        pending.ended = True
        self._stats.cancelled += 1
        if pending in self._queue:
            self._queue.remove(pending)
        elif self._shift is not None and pending.id in self._shift.running:
            self._shift.drop(pending)

    # ------------------------------------------------------------------------------------- the worker

    async def _supervise(self) -> None:
        """Serve the queue with the running worker; replace the worker when it is gone or due."""
        pause = _FIRST_PAUSE
        while True:
            if self._shift is not None:
                end = await self._serve(self._shift)
                self._meant = end in ("due", "idle")
                self._take_back(await self._end_shift(), died=end == "died")
                if end == "idle":
                    while not self._queue:
                        await self._sleep(None)
                else:
                    self._stats.restarts += 1
            try:
                await self._begin_shift()
            except (WorkerDied, OSError) as error:  # TimeoutError, and no memory or files for a process
                logger.error("the speech worker does not start, again in %.0f s: %s", pause, _reason(error))
                self._meant, self._trouble = False, "its worker does not start"
                self._fail_waiting()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._trouble, pause = None, _FIRST_PAUSE

    async def _begin_shift(self) -> None:
        started = time.monotonic()
        worker = self._worker = await self._in_thread(WorkerProcess, self._settings)
        try:
            ready = await self._in_thread(worker.wait_ready, self._settings.start_timeout)
        except BaseException:
            worker.kill()
            await self._in_thread(worker.close)
            self._worker = None
            raise
        self._languages = ready.languages
        self._shift = Shift(worker, self._stats, self._wake, self._thread)
        self._meant = False
        logger.info("speech model %r loaded in %.1f s", self._settings.model, time.monotonic() - started)

    async def _end_shift(self) -> list[Pending]:
        """Ends the worker; returns the recordings that it had."""
        if self._shift is None:
            return []
        await self._shift.close()
        left = list(self._shift.running.values())
        self._shift = self._worker = None
        return left

    async def _serve(self, shift: Shift) -> Literal["due", "idle", "stuck", "died"]:
        """Hand recordings to the worker until it has done its share, may sleep, hangs, or is gone."""
        idle_since = time.monotonic()
        while shift.alive:
            due = 0 < self._settings.restart_after <= shift.taken
            while self._queue and not due and shift.may_take(self._queue[0], self._settings.max_running):
                shift.take(self._queue.popleft())
                due = 0 < self._settings.restart_after <= shift.taken
            self._count_busy_time()
            if not shift.idle:
                idle_since = time.monotonic()
            elif due:
                return "due"
            elif self._idle_left(idle_since) == 0:
                return "idle"
            shift.give_up_stalled(self._settings.timeout)
            if shift.stuck:
                logger.error("the speech worker does not let go of a recording; it is replaced")
                return "stuck"
            await self._sleep(self._idle_left(idle_since) if shift.idle else min(self._settings.timeout, 1.0))
        return "died"

    def _idle_left(self, since: float) -> float | None:
        """Seconds until an idle worker is unloaded; None: it is kept."""
        if self._settings.unload_after == 0:
            return None
        return max(0.0, since + self._settings.unload_after - time.monotonic())

    def _take_back(self, left: list[Pending], died: bool) -> None:
        """The recordings that the last worker left undone are the first of the next one.

        One that saw two workers die, the second time alone, is the cause, and fails.
        """
        for pending in left:
            pending.crashes += died
            if pending.crashes > 1:
                message = (
                    "The speech worker stopped twice over this audio. Try again later, or send less of it."
                )
                self._stats.failed += 1
                pending.end(TranscriptionUnavailable(message))
        self._queue.extendleft(pending for pending in reversed(left) if not pending.ended)

    def _fail_waiting(self) -> None:
        while self._queue:
            error = TranscriptionUnavailable(f"Speech cannot be transcribed now: {self._trouble}.")
            self._stats.failed += 1
            self._queue.popleft().end(error)

    async def _sleep(self, seconds: float | None) -> None:
        """Until something happens, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _count_busy_time(self) -> None:
        now = time.monotonic()
        if self._busy_since is not None:
            self._stats.busy_seconds += now - self._busy_since
        self._busy_since = now if self._shift is not None and self._shift.running else None

    async def _in_thread(self, call: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def _reason(error: Exception) -> str:
    return str(error) or "it took too long"
