"""The parent's end of one worker process: start it, talk to it, see that it died."""

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import wait

import numpy as np

from service.settings import TranscriptionSettings
from service.transcription.messages import Cancel, Job, NotLoaded, Ready, Sound
from service.transcription.worker import main

# spawn: a fork of a process with threads and loaded models may deadlock
_context = multiprocessing.get_context("spawn")


class WorkerDied(Exception):
    """The process ended, was killed, or could not load its model; the message says which."""


class WorkerProcess:
    """One process with one loaded model. A dead one is not revived: make another."""

    def __init__(self, settings: TranscriptionSettings) -> None:
        self._connection, theirs = _context.Pipe()
        self._process = _context.Process(
            target=main, args=(theirs, settings), name="transcription", daemon=True
        )
        self._process.start()
        theirs.close()
        self._reader: threading.Thread | None = None
        self._closed = False
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return not self._closed and self._process.is_alive()

    def wait_ready(self, timeout: float) -> Ready:
        """Waits until the model is loaded. Blocks.

        Raises:
            WorkerDied: it could not be loaded, with the reason.
            TimeoutError: it takes more than `timeout` seconds.
        """
        ready = wait([self._connection, self._process.sentinel], timeout)
        if not ready:
            raise TimeoutError
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._end()) from None
        if isinstance(answer, NotLoaded):
            raise WorkerDied(answer.reason)
        return answer

    def listen(self, on_message: Callable[[object], None], on_end: Callable[[str], None]) -> None:
        """From now on, calls `on_message` with each message and `on_end` once, in a thread of its own."""
        self._reader = threading.Thread(
            target=self._read, args=(on_message, on_end), name="transcription reader", daemon=True
        )
        self._reader.start()

    def send(self, message: Job | Cancel | Sound, audio: np.ndarray | None = None) -> None:
        """Blocks while the pipe is full; one thread at a time. A dead worker hears nothing.

        Args:
            audio: the samples that a `Sound` announces.
        """
        try:
            self._connection.send(message)
            if audio is not None:
                self._connection.send_bytes(memoryview(audio).cast("B"))
        except OSError:
            pass  # `on_end` tells

    def kill(self) -> None:
        """Ends the process at once; safe from any thread."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process and releases what belongs to it. Blocks until no call will come any more."""
        self._closed = True
        self._process.kill()
        self._process.join()
        if self._reader is not None:
            self._reader.join()
        self._process.close()
        self._connection.close()

    def _read(self, on_message: Callable[[object], None], on_end: Callable[[str], None]) -> None:
        while True:
            try:
                message = self._connection.recv()
            except Exception:  # also half a message, from one that was killed while it wrote
                on_end(self._end())
                return
            on_message(message)

    def _end(self) -> str:
        self._process.join()
        return f"exit code {self._process.exitcode}"
