"""The speech worker's process: batches the speech of all recordings at hand through one loaded model.

Three threads share the state of the recordings under one lock. The first reads the pipe; the second scores
windows for speech, so that pieces of text-to-be come up; the third decodes pieces. The last two take turns
between recordings, a few windows or one piece of each at a time, so that a short question does not wait for a
long recording. When the parent dies the pipe ends, and so does the worker.
"""

import logging
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from service.settings import TranscriptionSettings
from service.transcription.messages import (
    Batch,
    Cancel,
    Dropped,
    Failed,
    Finished,
    Heard,
    Job,
    NotLoaded,
    Ready,
    Sound,
)
from service.transcription.transcript import Segment

if TYPE_CHECKING:
    from service.transcription.diarisation import Diariser
    from service.transcription.recording import Piece, Recording
    from service.transcription.whisper import HeardPiece, Whisper

logger = logging.getLogger(__name__)
Item, Result = TypeVar("Item"), TypeVar("Result")

_WINDOWS = 16
"""Windows of five seconds, half a second apart, that are scored in one pass."""


def main(connection: Connection, settings: TranscriptionSettings) -> None:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _quieten(settings.threads)
    try:
        from service.transcription.whisper import Whisper

        whisper = Whisper(settings)
        diariser = _load_diariser(settings)
    except Exception as error:
        connection.send(NotLoaded(f"{type(error).__name__}: {error}"))
        return
    connection.send(Ready(whisper.languages))
    Worker(connection, whisper, diariser, settings.batch_size).run()


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


def _load_diariser(settings: TranscriptionSettings) -> "Diariser | None":
    if settings.diarisation_model is None:
        return None
    from service.transcription.diarisation import Diariser

    try:
        return Diariser(settings.diarisation_model, settings.device)
    except Exception as error:  # pyannote has many kinds
        raise ValueError(f"diarisation model {settings.diarisation_model!r}: {error}") from error


class Worker:
    """The recordings at hand, and the two stages that work on them."""

    def __init__(
        self, connection: Connection, whisper: "Whisper", diariser: "Diariser | None", batch_size: int
    ) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._whisper = whisper
        self._diariser = diariser
        self._batch_size = batch_size
        self._recordings: deque[Recording] = deque()
        self._changed = threading.Condition()
        self._telling_apart = ThreadPoolExecutor(1, thread_name_prefix="speakers")

    def run(self) -> None:
        """Reads what the parent sends until it is gone."""
        for stage in (self._listen, self._decode):
            threading.Thread(target=self._forever, args=(stage,), name=stage.__name__, daemon=True).start()
        while True:
            try:
                self._receive(self._connection.recv())
            except (EOFError, OSError):
                os._exit(0)  # the stages may be in the middle of a pass

    def _receive(self, message: Job | Sound | Cancel) -> None:
        match message:
            case Job():
                from service.transcription.recording import Recording

                language = message.options.language or self._whisper.language
                with self._changed:
                    self._recordings.append(Recording(message, language, self._whisper.voice.grid))
                    self._ask_for_sound()
            case Sound():
                audio = np.empty(message.samples, np.float32)
                self._connection.recv_bytes_into(memoryview(audio).cast("B"))
                with self._changed:
                    for recording in self._recordings:
                        if recording.job.id == message.job:
                            recording.receive(message.start, audio)
                    self._ask_for_sound()
                    self._changed.notify_all()
            case Cancel():
                with self._changed:
                    known = [recording for recording in self._recordings if recording.job.id == message.job]
                    for recording in known:
                        recording.cancelled = True
                        self._settle(recording)
                    self._changed.notify_all()
                if not known:
                    self._send(Dropped(message.job))

    def _forever(self, stage: Callable[[], None]) -> None:
        try:
            while True:
                stage()
        except BaseException:
            logger.critical("the speech worker ends", exc_info=True)
            os._exit(1)  # a stage that is gone must not leave recordings waiting

    # -------------------------------------------------------------------------------------- listening

    def _listen(self) -> None:
        with self._changed:
            while not (share := self._windows()):
                self._changed.wait()
        scored = _apart(self._scores, share)
        with self._changed:
            for (recording, _), scores in zip(share, scored, strict=True):
                recording.listening = False
                if isinstance(scores, Exception):
                    self._fail(recording, scores)
                else:
                    recording.listened(scores)
                    self._report(recording, ())
            self._ask_for_sound()
            self._changed.notify_all()

    def _windows(self) -> "list[tuple[Recording, list[np.ndarray]]]":
        """The next windows: one of each recording, and what is left to those that are done the soonest."""
        share = []
        left = _WINDOWS
        waiting = sorted(self._recordings, key=lambda recording: recording.windows_left)
        for behind, recording in zip(reversed(range(len(waiting))), waiting, strict=True):
            if windows := recording.windows(max(1, left - behind)):
                recording.listening = True
                share.append((recording, windows))
                left -= len(windows)
            if left <= 0:
                break
        return share

    def _scores(self, share: "Sequence[tuple[Recording, list[np.ndarray]]]") -> list[np.ndarray]:
        scores = self._whisper.voice.scores([window for _, windows in share for window in windows])
        ends = np.cumsum([len(windows) for _, windows in share])
        return np.split(scores, ends[:-1])

    def _ask_for_sound(self) -> None:
        for recording in self._recordings:
            if not recording.cancelled and (want := recording.wanted_sound()) is not None:
                self._send(want)

    # --------------------------------------------------------------------------------------- decoding

    def _decode(self) -> None:
        with self._changed:
            while not (batch := self._next_batch()):
                self._changed.wait()
        heard = _apart(self._heard, batch)
        self._send(Batch(len(batch)))
        with self._changed:
            for recording in dict.fromkeys(recording for recording, _ in batch):
                recording.decoding = False
                own = [result for (owner, _), result in zip(batch, heard, strict=True) if owner is recording]
                self._take(recording, own)
            self._changed.notify_all()

    def _next_batch(self) -> "list[tuple[Recording, Piece]]":
        """The next pieces of recordings that are decoded in the same way, one of each in turn."""
        ready = [recording for recording in self._recordings if recording.pieces and not recording.cancelled]
        if not ready:
            return []
        self._recordings.remove(ready[0])  # another kind comes first the next time
        self._recordings.append(ready[0])
        alike = [recording for recording in ready if recording.kind == ready[0].kind]
        batch: list[tuple[Recording, Piece]] = []
        while alike and len(batch) < self._batch_size:
            for recording in alike[: self._batch_size - len(batch)]:
                batch.append((recording, recording.pieces.popleft()))
                recording.decoding = True
            # The first piece tells the language of those that follow.
            alike = [recording for recording in alike if recording.pieces and recording.language is not None]
        return batch

    def _heard(self, batch: "Sequence[tuple[Recording, Piece]]") -> "list[HeardPiece]":
        recordings, pieces = zip(*batch, strict=True)
        languages = [recording.language for recording in recordings]
        return self._whisper.decode(pieces, languages, recordings[0].job.options)

    def _take(self, recording: "Recording", heard: "Sequence[HeardPiece | Exception]") -> None:
        segments: list[Segment] = []
        for result in heard:
            if isinstance(result, Exception):
                self._fail(recording, result)
                return
            recording.language = result.language
            if recording.alignment != "whisper":  # one piece that the aligner could not do is enough
                recording.alignment = result.alignment
            if result.segment.text:
                segments.append(result.segment)
        self._report(recording, tuple(segments))

    # ------------------------------------------------------------------------------------------- ends

    def _report(self, recording: "Recording", segments: tuple[Segment, ...]) -> None:
        if not recording.cancelled and not (recording.decoding and not segments):
            self._send(
                Heard(recording.job.id, segments, recording.until, recording.language, recording.alignment)
            )
        self._settle(recording)

    def _settle(self, recording: "Recording") -> None:
        """Lets go of a recording that is done or not wanted, unless a stage is at work on it."""
        if recording not in self._recordings or recording.listening or recording.decoding:
            return
        if recording.cancelled:
            self._recordings.remove(recording)
            self._send(Dropped(recording.job.id))
        elif recording.done:
            self._recordings.remove(recording)
            if recording.whole is None:
                self._send(Finished(recording.job.id))
            else:
                self._telling_apart.submit(self._tell_apart, recording)

    def _tell_apart(self, recording: "Recording") -> None:
        job = recording.job.id
        try:
            self._send(Finished(job, self._diariser.turns(recording.whole)))
        except Exception as error:
            logger.exception("diarisation failed")
            self._send(Failed(job, f"{type(error).__name__}: {error}"))

    def _fail(self, recording: "Recording", error: Exception) -> None:
        if recording not in self._recordings:
            return
        logger.error("transcription failed", exc_info=error)
        self._recordings.remove(recording)
        self._send(Failed(recording.job.id, f"{type(error).__name__}: {error}"))

    def _send(self, message: object) -> None:
        with self._sending:
            self._connection.send(message)


def _apart(step: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result | Exception]:
    """The step's results; where it fails, each item is tried alone, so that one harms no other."""
    try:
        return step(items)
    except Exception as error:
        if len(items) == 1:
            return [error]
        return [_apart(step, [item])[0] for item in items]
