"""Caption scores as COCO's evaluation code gives them, and bootstrap intervals for them.

PTB tokenizer, CIDEr-D, BLEU-1..4, METEOR and ROUGE-L are pycocoevalcap's own; nothing is scored anew here,
except that BLEU is summed again from pycocoevalcap's counts for every bootstrap sample. Scores are as
published: CIDEr 0..10 (a human caption on Flickr8k: about 0.8), the others as fractions.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


class MetricsError(RuntimeError):
    """The scores cannot be computed; the message says what is missing."""


@dataclass(frozen=True)
class CaptionScores:
    """`corpus`: metric -> score; `images`: metric -> [images], the terms its bootstrap is made of.

    `images["Bleu"]` is [images, 10]: length, closest reference length, matched and all 1..4-grams.
    """

    corpus: dict[str, float]
    images: dict[str, np.ndarray]
    distinct: int


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def tokenize(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """PTB-tokenized captions, lower case and without punctuation, of each image.

    Raises MetricsError where there is no Java.
    """
    _need_java()
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    given = {key: [{"caption": caption} for caption in texts] for key, texts in captions.items()}
    with _quiet():
        return PTBTokenizer().tokenize(given)


def caption_scores(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> CaptionScores:
    """Scores of one caption per image against that image's references.

    The images are those of `candidates`, in their order; CIDEr takes its word frequencies from their
    references, as pycocoevalcap does. Raises KeyError for an image without references, MetricsError where
    there is no Java.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    truth = tokenize({key: references[key] for key in candidates})
    said = tokenize({key: [text.replace("\n", " ") or "."] for key, text in candidates.items()})
    bleu = BleuScorer(n=4)
    for key in candidates:
        bleu += (said[key][0], truth[key])
    counts = np.array(
        [
            (
                c["testlen"],
                min((abs(r - c["testlen"]), r) for r in c["reflen"])[1],
                *c["correct"],
                *c["guess"],
            )
            for c in bleu.ctest
        ],
        dtype=np.float64,
    )
    corpus: dict[str, float] = {}
    images: dict[str, np.ndarray] = {"Bleu": counts}
    with _quiet():
        corpus |= {f"Bleu_{n}": score for n, score in enumerate(bleu.compute_score(option="closest")[0], 1)}
        for name, scorer in (("METEOR", Meteor()), ("ROUGE_L", Rouge()), ("CIDEr", Cider())):
            score, each = scorer.compute_score(truth, said)
            corpus[name], images[name] = float(score), np.asarray(each, dtype=np.float64)
    return CaptionScores(corpus, images, len({text.strip().lower() for text in candidates.values()}))


def bleu_from_counts(counts: np.ndarray) -> np.ndarray:
    """BLEU-4 of summed counts, [..., 10] -> [...] (same formula and guards as pycocoevalcap)."""
    length, reference = counts[..., 0], counts[..., 1]
    precision = (counts[..., 2:6] + 1e-15) / (counts[..., 6:10] + 1e-9)
    ratio = (length + 1e-15) / (reference + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.maximum(ratio, 1e-9)), 1.0)
    return np.prod(precision, axis=-1) ** 0.25 * brevity


def bootstrap(
    scores: CaptionScores,
    metric: str,
    *,
    against: CaptionScores | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """95 % interval of CIDEr, METEOR, ROUGE_L or Bleu_4 over resampled images.

    With `against`, of the difference `scores` - `against` on the same resampled images (paired bootstrap,
    Koehn 2004); both must be of the same images in the same order.
    """
    draws = _samples(scores, metric, samples, seed)
    value = scores.corpus[metric]
    if against is not None:
        draws = draws - _samples(against, metric, samples, seed)
        value -= against.corpus[metric]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _samples(scores: CaptionScores, metric: str, samples: int, seed: int) -> np.ndarray:
    """The metric of each bootstrap sample, [samples]."""
    terms = scores.images["Bleu" if metric == "Bleu_4" else metric]
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(terms), np.full(len(terms), 1 / len(terms)), size=samples)
    return bleu_from_counts(weights @ terms) if metric == "Bleu_4" else weights @ terms / len(terms)


def accuracy(right: Sequence[bool], *, samples: int = 2000, seed: int = 0) -> Interval:
    """The share of right answers with its 95 % bootstrap interval. Raises ValueError for no answers."""
    if not right:
        raise ValueError("no answers to score")
    values = np.asarray(right, dtype=np.float64)
    draws = np.random.default_rng(seed).binomial(len(values), values.mean(), size=samples) / len(values)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _need_java() -> None:
    if shutil.which("java") is None:
        raise MetricsError(
            "Java is needed to score captions (PTB tokenizer, METEOR) and is not installed: "
            "apt-get install default-jre-headless"
        )


@contextlib.contextmanager
def _quiet():
    """Keep pycocoevalcap's prints off stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
