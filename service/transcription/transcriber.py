"""The async face of transcription: a queue in front of one worker process, and the worker's lives.

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
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from service.settings import TranscriptionSettings
from service.transcription.failures import (
    TranscriptionBusy,
    TranscriptionError,
    TranscriptionTimeout,
    TranscriptionUnavailable,
    UnsupportedLanguage,
    UnsupportedOption,
)
from service.transcription.messages import (
    Batch,
    Cancel,
    Dropped,
    Failed,
    Finished,
    Heard,
    Job,
    Ready,
    Sound,
    WantSound,
)
from service.transcription.pending import Pending, Progress
from service.transcription.process import WorkerDied, WorkerProcess
from service.transcription.transcript import PLAIN, Transcript, TranscriptionOptions
from shared.media import SAMPLE_RATE

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between attempts to start a worker that does not start; the pause doubles."""
_MIN_SAMPLES = SAMPLE_RATE // 10
_DROP_SECONDS = 60.0
"""A worker that does not let go of a recording within this time is stuck, and is replaced."""


@dataclass
class TranscriberStats:
    """Counters since the start, and the state now."""

    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    restarts: int = 0
    """Workers replaced: dead, stuck, or done with their share. One unloaded while idle does not count."""
    batches: int = 0
    batched_pieces: int = 0
    """Pieces of speech that were decoded in them."""
    audio_seconds: float = 0.0
    """Length of what was transcribed."""
    busy_seconds: float = 0.0
    """Wall-clock time in which there was something to transcribe."""


class Transcriber:
    """Transcribes with WhisperX in a worker process.

    `start()` and `stop()` frame its life; all methods belong to one event loop.
    """

    def __init__(self, settings: TranscriptionSettings) -> None:
        self._settings = settings
        self._ids = itertools.count(1)
        self._queue: deque[Pending] = deque()
        self._running: dict[int, Pending] = {}
        self._dropping: dict[int, float] = {}  # cancelled jobs that the worker still has, and since when
        self._wake = asyncio.Event()
        self._worker: WorkerProcess | None = None
        self._loaded: Ready | None = None
        self._up = False
        self._asleep = False
        self._trouble: str | None = "it has not been started"
        self._supervisor: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transcription")
        self._stats = TranscriberStats()
        self._busy_since: float | None = None

    @property
    def ready(self) -> bool:
        """Recordings are taken: a model is loaded, or was unloaded while nobody needed it."""
        return self._asleep or (self._up and self.alive)

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
        return self._loaded.languages if self._loaded is not None else frozenset()

    def stats(self) -> TranscriberStats:
        self._count_busy_time()
        self._stats.waiting, self._stats.running = len(self._queue), len(self._running)
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
        self._queue.extend(self._running.values())
        self._running.clear()
        self._fail_waiting()
        await self._close_worker()
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
        if options.task == "translate" and self._loaded is not None and len(self.languages) == 1:
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
        elif pending.id in self._running:
            self._drop(pending)

    def _drop(self, pending: Pending) -> None:
        del self._running[pending.id]
        self._dropping[pending.id] = time.monotonic()
        self._post(Cancel(pending.id))
        self._wake.set()

    # ------------------------------------------------------------------------------------- the worker

    async def _supervise(self) -> None:
        """Serve the queue with the running worker; replace the worker when it is gone or due."""
        pause = _FIRST_PAUSE
        while True:
            if self._worker is not None:
                died = await self._serve()
                await self._close_worker()
                self._take_back(died)
                if self._asleep:
                    while not self._queue:
                        await self._sleep(None)
                else:
                    self._stats.restarts += 1
            try:
                await self._start_worker()
            except (WorkerDied, TimeoutError) as error:
                logger.error("the speech worker does not start, again in %.0f s: %s", pause, _reason(error))
                self._asleep, self._trouble = False, "its worker does not start"
                self._fail_waiting()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._trouble, pause = None, _FIRST_PAUSE

    async def _start_worker(self) -> None:
        started = time.monotonic()
        worker = self._worker = await self._in_thread(WorkerProcess, self._settings)
        try:
            self._loaded = await self._in_thread(worker.wait_ready, self._settings.start_timeout)
        except BaseException:
            await self._close_worker()
            raise
        self._asleep, self._up = False, True
        loop = asyncio.get_running_loop()

        def in_loop(call: Callable[[WorkerProcess, Result], None]) -> Callable[[Result], None]:
            def forward(what: Result) -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(call, worker, what)

            return forward

        worker.listen(in_loop(self._received), in_loop(self._ended))
        logger.info("speech model %r loaded in %.1f s", self._settings.model, time.monotonic() - started)

    async def _close_worker(self) -> None:
        self._up = False
        if self._worker is not None:
            self._worker.kill()
            await self._in_thread(self._worker.close)  # what it said before is heard until here
            self._worker = None

    def _take_back(self, died: bool) -> None:
        """The recordings that the last worker left undone are the first of the next one.

        One that saw two workers die, the second time alone, is the cause, and fails.
        """
        left = list(self._running.values())
        self._running.clear()
        self._dropping.clear()
        for pending in left:
            pending.crashes += died
            if pending.crashes > 1:
                message = (
                    "The speech worker stopped twice over this audio. Try again later, or send less of it."
                )
                self._fail(pending, TranscriptionUnavailable(message))
        self._queue.extendleft(pending for pending in reversed(left) if not pending.ended)

    async def _serve(self) -> bool:
        """Hand recordings to the worker until it has done its share, is stuck or idle, or is gone: True."""
        taken, idle_since = 0, time.monotonic()
        while self._worker.alive:
            while self._may_start_next() and not self._share_done(taken):
                self._hand_over(self._queue.popleft())
                taken += 1
            self._count_busy_time()
            if self._running or self._dropping:
                idle_since = time.monotonic()
            elif self._share_done(taken):
                return False
            elif self._idle_left(idle_since) == 0:
                self._asleep = not self._queue
                return False
            if not self._all_move():
                return False
            await self._sleep(self._idle_left(idle_since))
        logger.error("the speech worker died with %d recordings; it is replaced", len(self._running))
        return True

    def _share_done(self, taken: int) -> bool:
        return 0 < self._settings.restart_after <= taken

    def _may_start_next(self) -> bool:
        """There is a recording and room for it; one that may have killed a worker runs alone."""
        if not self._queue or len(self._running) + len(self._dropping) >= self._settings.max_running:
            return False
        if self._queue[0].crashes:
            return not self._running
        return not any(pending.crashes for pending in self._running.values())

    def _hand_over(self, pending: Pending) -> None:
        self._running[pending.id] = pending
        pending.moved_at = time.monotonic()
        self._post(Job(pending.id, len(pending.audio), pending.resumed_options, pending.resume_at))

    def _idle_left(self, since: float) -> float | None:
        """Seconds until an idle worker is unloaded; None: it is kept."""
        if self._settings.unload_after == 0:
            return None
        return max(0.0, since + self._settings.unload_after - time.monotonic())

    def _all_move(self) -> bool:
        """Gives up recordings that make no progress; returns whether the worker can go on."""
        now = time.monotonic()
        for pending in list(self._running.values()):
            if now - pending.moved_at > self._settings.timeout:
                logger.error("a transcription made no progress for %g s; it ends", self._settings.timeout)
                self._drop(pending)
                self._fail(
                    pending, TranscriptionTimeout("The audio takes too long to transcribe. Send less of it.")
                )
        stuck = any(now - since > _DROP_SECONDS for since in self._dropping.values())
        if stuck:
            logger.error("the speech worker does not let go of a recording; it is replaced")
        return not stuck

    async def _sleep(self, seconds: float | None) -> None:
        """Until something happens, or the time is over."""
        if self._running or self._dropping:
            seconds = min(self._settings.timeout, 1.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    # ------------------------------------------------------------------------------------ its messages

    def _received(self, worker: WorkerProcess, message: object) -> None:
        if worker is not self._worker:
            return
        if isinstance(message, Batch):
            self._stats.batches += 1
            self._stats.batched_pieces += message.rows
            return
        if isinstance(message, Finished | Failed | Dropped):
            self._dropping.pop(message.job, None)
            self._wake.set()
        pending = self._running.get(message.job)
        if pending is None:
            return
        match message:
            case WantSound():
                sound = pending.audio[message.start : message.start + message.samples]
                self._post(Sound(message.job, message.start, len(sound)), sound)
            case Heard():
                pending.heard(message)
            case Finished():
                self._complete(pending, pending.transcript(message.turns))
            case Failed():
                logger.error("transcription failed: %s", message.reason)
                del self._running[pending.id]
                self._fail(pending, TranscriptionError("The audio could not be transcribed."))

    def _ended(self, worker: WorkerProcess, reason: str) -> None:
        if self._up and worker is self._worker:
            logger.error("the speech worker ended: %s", reason)
        self._wake.set()

    def _complete(self, pending: Pending, transcript: Transcript) -> None:
        del self._running[pending.id]
        pending.ended = True
        self._stats.completed += 1
        self._stats.audio_seconds += transcript.duration
        pending.events.put_nowait(transcript)

    def _fail(self, pending: Pending, error: TranscriptionError) -> None:
        self._stats.failed += 1
        pending.ended = True
        pending.events.put_nowait(error)

    def _fail_waiting(self) -> None:
        while self._queue:
            error = TranscriptionUnavailable(f"Speech cannot be transcribed now: {self._trouble}.")
            self._fail(self._queue.popleft(), error)

    def _post(self, message: Job | Cancel | Sound, audio: np.ndarray | None = None) -> None:
        if self._worker is not None:
            self._thread.submit(self._worker.send, message, audio)

    def _count_busy_time(self) -> None:
        now = time.monotonic()
        if self._busy_since is not None:
            self._stats.busy_seconds += now - self._busy_since
        self._busy_since = now if self._running else None

    async def _in_thread(self, call: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def _reason(error: Exception) -> str:
    return str(error) or "it took too long"
