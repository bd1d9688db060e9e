"""Speech to text: WhisperX in a worker process of its own, behind an async facade.

The model libraries are imported in the worker only: the service's process stays small, a crash in native
code takes one transcription with it and not the service, and WhisperX, which is not thread-safe, has its
process to itself.
"""

from service.transcription.transcriber import (
    Transcriber,
    TranscriberStats,
    TranscriptionBusy,
    TranscriptionError,
    TranscriptionTimeout,
    TranscriptionUnavailable,
    UnsupportedLanguage,
)
from service.transcription.transcript import Segment, Transcript, Word

__all__ = [
    "Segment",
    "Transcriber",
    "TranscriberStats",
    "Transcript",
    "TranscriptionBusy",
    "TranscriptionError",
    "TranscriptionTimeout",
    "TranscriptionUnavailable",
    "UnsupportedLanguage",
    "Word",
]
