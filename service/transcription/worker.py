"""The worker process: takes one recording at a time from a pipe, answers with its transcript.

Parent to worker: a `Job`, then its samples in pieces of float32 bytes. Worker to parent: `Ready` once, then
for each job a `Transcript`, `Cancelled` or `Failed`. The sound goes through the pipe, not through a file or
/dev/shm, which containers keep small. When the parent dies the pipe ends, and so does the worker.
"""

import logging
import os
import signal
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from service.settings import TranscriptionSettings

if TYPE_CHECKING:
    from service.transcription.whisper import Whisper

PIECE = 1024 * 1024
"""Samples sent at a time."""


@dataclass(frozen=True)
class Job:
    id: int
    samples: int
    language: str | None
    word_timestamps: bool


@dataclass(frozen=True)
class Ready:
    languages: frozenset[str]


@dataclass(frozen=True)
class Failed:
    """The model did not load, or could not transcribe. For the log, not for the client."""

    reason: str


class Cancelled(Exception):
    """The client is gone: stop at the next batch. Also the answer that says so."""


def main(connection: Connection, cancelled_job: Any, settings: TranscriptionSettings) -> None:
    """Entry point of the process.

    Args:
        cancelled_job: a shared 64-bit integer; the job whose id it holds is no longer wanted.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _quieten(settings.threads)
    try:
        from service.transcription.whisper import Whisper

        whisper = Whisper(settings)
    except Exception as error:
        connection.send(Failed(f"{type(error).__name__}: {error}"))
        return
    connection.send(Ready(whisper.languages))
    while True:
        try:
            job = connection.recv()
            audio = _receive(connection, job.samples)
        except EOFError:
            return
        connection.send(_transcribe(whisper, job, audio, cancelled_job))
        del audio  # hours of sound are not kept until the next job comes


def _quieten(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["PYANNOTE_METRICS_ENABLED"] = "false"  # pyannote would report its use over the network
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s transcription worker: %(message)s")
    logging.disable(logging.INFO)  # whatever the libraries set for their own loggers
    whisperx = logging.getLogger("whisperx")
    whisperx.addHandler(logging.NullHandler())  # else it makes one of its own, on stdout
    whisperx.setLevel(logging.ERROR)


def _receive(connection: Connection, samples: int) -> np.ndarray:
    audio = np.empty(samples, np.float32)
    for start in range(0, samples, PIECE):
        connection.recv_bytes_into(memoryview(audio[start : start + PIECE]).cast("B"))
    return audio


def _transcribe(whisper: "Whisper", job: Job, audio: np.ndarray, cancelled_job: Any) -> Any:
    def check(progress: float) -> None:
        if cancelled_job.value == job.id:
            raise Cancelled

    try:
        check(0.0)
        return whisper.transcribe(
            audio, language=job.language, word_timestamps=job.word_timestamps, on_progress=check
        )
    except Cancelled as cancelled:
        return cancelled
    except Exception as error:
        logging.getLogger(__name__).exception("transcription failed")
        return Failed(f"{type(error).__name__}: {error}")
