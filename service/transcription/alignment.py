"""When each word was said: by a wav2vec2 model's forced alignment, or by Whisper's own attention."""

import logging
from itertools import pairwise
from typing import Any

import numpy as np
import whisperx.alignment
from faster_whisper.transcribe import merge_punctuations
from nltk.tokenize.punkt import PunktSentenceTokenizer

from service.transcription.recording import Piece
from service.transcription.transcript import Segment, Word
from shared.media import SAMPLE_RATE

logger = logging.getLogger(__name__)

_PREPEND, _APPEND = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"

# WhisperX cuts the text into sentences with NLTK's trained splitter, which it downloads. Words do not depend
# on where sentences end, and NLTK's untrained splitter needs no download.
whisperx.alignment.nltk_load = lambda path: PunktSentenceTokenizer()


class Aligner:
    """wav2vec2 alignment models, one for a language, loaded when first needed.

    Args:
        model: `auto` takes WhisperX's choice for each language; a directory, hub or torchaudio name serves
            `language`; None turns alignment off.
        device: as torch names it.

    Raises:
        ValueError: a model is named, and no language.
    """

    def __init__(self, model: str | None, language: str | None, device: str) -> None:
        if model not in (None, "auto") and language is None:
            raise ValueError("an alignment model knows one language: set the transcription language too")
        self._model, self._language, self._device = model, language, device
        self._loaded: dict[str, tuple[Any, dict[str, Any]] | None] = {}

    def loads(self, language: str) -> bool:
        """Whether there is a model for the language. One that does not load is named in the log, once."""
        if self._model is None or (self._model != "auto" and language != self._language):
            return False
        if language not in self._loaded:
            self._loaded[language] = self._load(language)
        return self._loaded[language] is not None

    def _load(self, language: str) -> tuple[Any, dict[str, Any]] | None:
        name = None if self._model == "auto" else self._model
        try:
            return whisperx.load_align_model(language, self._device, model_name=name)
        except Exception as error:  # no file, no network, not a wav2vec2: each its own type
            logger.warning(
                "no alignment model for %s, word times are Whisper's own: %s: %s",
                language,
                self._model,
                error,
            )
            return None

    def words(self, piece: Piece, text: str, language: str) -> list[Word]:
        """Words of `text` with their times in the recording; `loads(language)` must have said yes."""
        model, metadata = self._loaded[language]
        whole = {"start": 0.0, "end": len(piece.audio) / SAMPLE_RATE, "text": text}
        found = whisperx.align([whole], model, metadata, piece.audio, self._device)["word_segments"]
        return [
            Word(
                word["word"],
                round(piece.start + float(word["start"]), 3),
                round(piece.start + float(word["end"]), 3),
                round(float(word.get("score", 0.0)), 3),
            )
            for word in found
            if "start" in word and "end" in word
        ]


def attended_words(segment: Segment, found: list[dict[str, Any]]) -> list[Word]:
    """Words from what faster-whisper's `find_alignment` found, with their times in the recording.

    It follows the attention of Whisper's alignment heads by dynamic time warping: openai/whisper's timing.py.
    """
    _shorten_beside_sentence_ends(found)
    merge_punctuations(found, _PREPEND, _APPEND)
    spaced = any(part["word"].startswith(" ") for part in found)  # Chinese and Japanese words stand without
    start, end = segment.start, segment.end
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


def _shorten_beside_sentence_ends(found: list[dict[str, Any]]) -> None:
    """Pauses at sentence ends belong to no word: faster-whisper's rule, at most twice the median length."""
    lengths = np.array([part["end"] - part["start"] for part in found])
    lengths = lengths[lengths.nonzero()]
    if not len(lengths):
        return
    longest = 2 * min(0.7, float(np.median(lengths)))
    for before, part in pairwise(found):
        if part["end"] - part["start"] > longest:
            if part["word"] in ".。!！?？":
                part["end"] = part["start"] + longest
            elif before["word"] in ".。!！?？":
                part["start"] = part["end"] - longest
