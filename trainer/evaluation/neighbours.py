"""Captioning without a language model: borrow a caption from the most similar training photographs.

Two baselines of Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image Captioning": a caption
of the nearest photograph, and the consensus caption, the one of the k nearest photographs' captions that is
most similar (CIDEr) to the others. A model below the consensus has learned nothing beyond its vision tower.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from trainer.cider import ORDERS, ngrams

CHUNK = 256  # queries compared at once with all photographs
_WORD = re.compile(r"[a-z0-9']+")


def nearest(queries: np.ndarray, photos: np.ndarray, count: int) -> np.ndarray:
    """Indices [queries, count] of the nearest photographs by cosine similarity, nearest first.

    `queries` [queries, width] and `photos` [photos, width] are pooled features; both are first standardised
    by the photographs' mean and deviation, so that no channel counts for its scale.
    """
    mean, deviation = photos.mean(axis=0), photos.std(axis=0) + 1e-6
    unit = [(x - mean) / deviation for x in (queries, photos)]
    left, right = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9) for x in unit)
    rows = [
        _most_similar(left[start : start + CHUNK] @ right.T, count) for start in range(0, len(left), CHUNK)
    ]
    return np.concatenate(rows)


def _most_similar(similarity: np.ndarray, count: int) -> np.ndarray:
    """Indices [queries, count] of each row's highest values, highest first."""
    count = min(count, similarity.shape[1])
    some = np.sort(np.argpartition(-similarity, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(similarity, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _ngrams(caption: str) -> list[Counter[tuple[str, ...]]]:
    """Counts of a caption's n-grams, one Counter per order."""
    counts = [Counter() for _ in range(ORDERS)]
    for gram, count in ngrams(tuple(_WORD.findall(caption.lower()))).items():
        counts[len(gram) - 1][gram] = count
    return counts


class Consensus:
    """Picks consensus captions among the captions of given training photographs.

    `captions` are the training photographs' captions, [photos][captions]; n-grams weigh by their document
    frequency over these photographs.
    """

    def __init__(self, captions: Sequence[Sequence[str]]):
        self._captions = [list(texts) for texts in captions]
        self._ngrams = [[_ngrams(text) for text in texts] for texts in self._captions]
        self._frequency: Counter[tuple[str, ...]] = Counter()
        for photo in self._ngrams:
            self._frequency.update({gram for caption in photo for order in caption for gram in order})

    def first(self, photo: int) -> str:
        """The caption of a photograph that agrees most with its others."""
        return self.pick([photo])

    def pick(self, photos: Sequence[int], *, best: int = 125) -> str:
        """The caption with the highest mean similarity to its `best` most similar fellow captions."""
        texts = [text for p in photos for text in self._captions[p]]
        grams = [caption for p in photos for caption in self._ngrams[p]]
        similarity = sum(self._cosines([g[order] for g in grams]) for order in range(ORDERS)) / ORDERS
        np.fill_diagonal(similarity, 0.0)
        kept = np.sort(similarity, axis=1)[:, ::-1][:, : min(best, len(texts) - 1)]
        return texts[int(kept.mean(axis=1).argmax())]

    def _cosines(self, counts: Sequence[Counter[tuple[str, ...]]]) -> np.ndarray:
        """Cosine similarities [captions, captions] of tf-idf vectors of one order."""
        columns = {gram: i for i, gram in enumerate(dict.fromkeys(g for c in counts for g in c))}
        vectors = np.zeros((len(counts), max(1, len(columns))))
        total = math.log(len(self._captions))
        for row, counter in enumerate(counts):
            for gram, number in counter.items():
                vectors[row, columns[gram]] = number * (total - math.log(max(1, self._frequency[gram])))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
        return vectors @ vectors.T
