"""CIDEr-D as a reward: word frequencies come from a fixed corpus, not from the captions that are scored.

Vedantam et al. 2015, as in pycocoevalcap, whose own scorer counts the frequencies anew at every call and so
gives a caption another score in another batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

Words = tuple[str, ...]

ORDERS = 4  # n-grams of one to four words
SIGMA = 6.0  # words of difference in length at which a score falls to exp(-1/2)


@dataclass(frozen=True)
class _Vector:
    """tf-idf weights of a caption's n-grams, by order, with their norms."""

    weights: list[dict[Words, float]]
    norms: list[float]
    length: int


class Cider:
    """Scores captions against references, 0 to 10.

    Args:
        corpus: the references of every image, each a tuple of words.
    """

    def __init__(self, corpus: Iterable[Sequence[Words]]):
        frequencies: Counter[Words] = Counter()
        images = 0
        for references in corpus:
            images += 1
            frequencies.update({ngram for words in references for ngram in ngrams(words)})
        rarest = math.log(max(images, 2))
        self._unseen = rarest
        self._idf = {ngram: rarest - math.log(count) for ngram, count in frequencies.items()}
        self._reference = lru_cache(maxsize=50_000)(self._vector)

    def score(self, caption: Words, references: Sequence[Words]) -> float:
        """CIDEr-D of one caption; 0 for one without words."""
        vector = self._vector(caption)
        return (
            10 / ORDERS * sum(_similarity(vector, self._reference(r)) for r in references) / len(references)
        )

    def _vector(self, words: Words) -> _Vector:
        weights: list[dict[Words, float]] = [{} for _ in range(ORDERS)]
        for ngram, count in ngrams(words).items():
            weights[len(ngram) - 1][ngram] = count * self._idf.get(ngram, self._unseen)
        norms = [math.sqrt(sum(value * value for value in order.values())) for order in weights]
        pairs = max(len(words) - 1, 0)  # pycocoevalcap counts the length in pairs of words
        return _Vector(weights, norms, pairs)


def ngrams(words: Words) -> Counter[Words]:
    """How often each n-gram of one to `ORDERS` words is there."""
    return Counter(words[i : i + n] for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Summed over orders: the cosine, a repeated n-gram counting no more than in the reference."""
    total = 0.0
    for mine, theirs, norm, other in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        if norm and other:
            shared = mine.keys() & theirs.keys()
            total += sum(min(mine[ngram], theirs[ngram]) * theirs[ngram] for ngram in shared) / (norm * other)
    return total * math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))
