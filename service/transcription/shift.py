"""One worker's time at work: the recordings it has, and what it says of them. Lives on the event loop."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import numpy as np

from service.transcription.failures import TranscriptionError, TranscriptionTimeout
from service.transcription.messages import (
    Batch,
    Cancel,
    Dropped,
    Failed,
    Finished,
    Heard,
    Job,
    Sound,
    WantSound,
)
from service.transcription.pending import Pending
from service.transcription.process import WorkerProcess
from service.transcription.stats import TranscriberStats

logger = logging.getLogger(__name__)
Said = TypeVar("Said")

_DROP_SECONDS = 60.0
"""A worker that does not let go of a recording within this time is stuck."""


class Shift:
    """A ready worker at work.

    Args:
        stats: counts what happens.
        wake: set when something happened that the transcriber may act on.
        thread: sends what the worker is told, in order.

    Attributes:
        taken: recordings that the worker was given so far.
        running: those it has, by id.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        stats: TranscriberStats,
        wake: asyncio.Event,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._worker, self._stats, self._wake, self._thread = worker, stats, wake, thread
        self._closed = False
        self._dropping: dict[int, float] = {}  # cancelled jobs that the worker still has, and since when
        self.running: dict[int, Pending] = {}
        self.taken = 0
        loop = asyncio.get_running_loop()

        def in_loop(call: Callable[[Said], None]) -> Callable[[Said], None]:
            def forward(said: Said) -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(call, said)

            return forward

        worker.listen(in_loop(self._received), in_loop(self._ended))

    @property
    def alive(self) -> bool:
        return not self._closed and self._worker.alive

    @property
    def idle(self) -> bool:
        return not (self.running or self._dropping)

    def may_take(self, pending: Pending, limit: int) -> bool:
        """There is room within `limit` recordings; one that may have killed a worker is alone."""
        if len(self.running) + len(self._dropping) >= limit:
            return False
        if pending.crashes:
            return not self.running
        return not any(running.crashes for running in self.running.values())

    def take(self, pending: Pending) -> None:
        self.running[pending.id] = pending
        self.taken += 1
        pending.moved_at = time.monotonic()
        self._tell(Job(pending.id, len(pending.audio), pending.resumed_options, pending.resume_at))

    def drop(self, pending: Pending) -> None:
        """Nobody waits for it any more; the worker lets go of it at its next step."""
        del self.running[pending.id]
        self._dropping[pending.id] = time.monotonic()
        self._tell(Cancel(pending.id))
        self._wake.set()

    def give_up_stalled(self, timeout: float) -> None:
        """Fails the recordings that made no progress for `timeout` seconds."""
        now = time.monotonic()
        for pending in list(self.running.values()):
            if now - pending.moved_at > timeout:
                logger.error("a transcription made no progress for %g s; it is given up", timeout)
                self.drop(pending)
                self._stats.failed += 1
                message = "The audio takes too long to transcribe. Send less of it."
                pending.end(TranscriptionTimeout(message))

    @property
    def stuck(self) -> bool:
        """The worker does not let go of a recording."""
        now = time.monotonic()
        return any(now - since > _DROP_SECONDS for since in self._dropping.values())

    async def close(self) -> None:
        """Ends the worker; what it said before is heard until here."""
        self._closed = True
        self._worker.kill()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._worker.close)

    def _tell(self, message: Job | Cancel | Sound, audio: np.ndarray | None = None) -> None:
        self._thread.submit(self._worker.send, message, audio)

    def _received(self, message: object) -> None:
        if isinstance(message, Batch):
            self._stats.batches += 1
            self._stats.batched_pieces += message.rows
            return
        if isinstance(message, Finished | Failed | Dropped):
            self._dropping.pop(message.job, None)
            self._wake.set()
        pending = self.running.get(message.job)
        if pending is None:
            return
        match message:
            case WantSound():
                sound = pending.audio[message.start : message.start + message.samples]
                self._tell(Sound(message.job, message.start, len(sound)), sound)
            case Heard():
                pending.heard(message)
            case Finished():
                del self.running[pending.id]
                self._stats.completed += 1
                self._stats.audio_seconds += pending.seconds
                pending.end(pending.transcript(message.turns))
            case Failed():
                logger.error("transcription failed: %s", message.reason)
                del self.running[pending.id]
                self._stats.failed += 1
                pending.end(TranscriptionError("The audio could not be transcribed."))

    def _ended(self, reason: str) -> None:
        if not self._closed:
            count = len(self.running)
            logger.error("the speech worker died with %d recordings (%s); it is replaced", count, reason)
        self._wake.set()
