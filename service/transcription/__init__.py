"""Speech to text: WhisperX in a worker process of its own, behind an async facade.

The model libraries are imported in the worker only: the service's process stays small, and a crash in native
code ends the worker and not the service.
"""

from service.transcription.failures import (
    TranscriptionBusy,
    TranscriptionError,
    TranscriptionTimeout,
    TranscriptionUnavailable,
    UnsupportedLanguage,
    UnsupportedOption,
)
from service.transcription.pending import Progress
from service.transcription.stats import TranscriberStats
from service.transcription.transcriber import Transcriber
from service.transcription.transcript import Segment, Transcript, TranscriptionOptions, Word

__all__ = [
    "Progress",
    "Segment",
    "Transcriber",
    "TranscriberStats",
    "Transcript",
    "TranscriptionBusy",
    "TranscriptionError",
    "TranscriptionOptions",
    "TranscriptionTimeout",
    "TranscriptionUnavailable",
    "UnsupportedLanguage",
    "UnsupportedOption",
    "Word",
]
