"""The parent's end of one worker process: start it, hand it a recording, see that it died. Blocking calls."""

import multiprocessing
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from service.settings import TranscriptionSettings
from service.transcription.transcript import Transcript
from service.transcription.worker import PIECE, Cancelled, Failed, Job, Ready, main

# spawn: a fork of a process with threads and loaded models may deadlock
_context = multiprocessing.get_context("spawn")


class WorkerDied(Exception):
    """The process ended, was killed, or did not answer in time."""


class WorkerProcess:
    """One process with one loaded model. A dead one is not revived: make another."""

    def __init__(self, settings: TranscriptionSettings) -> None:
        self._cancelled_job = _context.RawValue("q", -1)  # no lock that a killed worker could keep
        self._connection, theirs = _context.Pipe()
        self._process = _context.Process(
            target=main,
            args=(theirs, self._cancelled_job, settings),
            name="transcription",
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def sentinel(self) -> int:
        """A file descriptor that becomes readable when the process ends."""
        return self._process.sentinel

    def wait_ready(self, timeout: float) -> frozenset[str]:
        """Wait until the model is loaded; returns the languages it knows.

        Raises:
            WorkerDied: it could not be loaded, with the reason.
            TimeoutError: it takes more than `timeout` seconds.
        """
        answer = self._answer(timeout)
        if isinstance(answer, Ready):
            return answer.languages
        raise WorkerDied(answer.reason if isinstance(answer, Failed) else "unexpected answer")

    def transcribe(self, job: Job, audio: np.ndarray, timeout: float) -> Transcript | Cancelled | Failed:
        """Hand over mono 16 kHz float32 `[samples]` and wait for the answer.

        Raises:
            WorkerDied: the process ended meanwhile.
            TimeoutError: no answer within `timeout` seconds; the process is still at it.
        """
        try:
            self._connection.send(job)
            for start in range(0, job.samples, PIECE):
                self._connection.send_bytes(memoryview(audio[start : start + PIECE]).cast("B"))
        except OSError as error:
            raise WorkerDied(str(error)) from None
        return self._answer(timeout)

    def cancel(self, job_id: int) -> None:
        """Ask the worker to stop this job at its next batch. Does nothing to any other job."""
        self._cancelled_job.value = job_id

    def kill(self) -> None:
        """End the process at once; safe from any thread, and while another waits for an answer."""
        self._process.kill()

    def close(self) -> None:
        """End the process and release what belongs to it; nothing may be waiting for an answer."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    def _answer(self, timeout: float) -> Any:
        ready = wait([self._connection, self._process.sentinel], timeout)
        if self._connection in ready:
            try:
                return self._connection.recv()
            except (EOFError, OSError):
                pass
        elif not ready:
            raise TimeoutError
        self._process.join()
        raise WorkerDied(f"exit code {self._process.exitcode}")
