"""Caption scores as COCO's evaluation code gives them, and bootstrap intervals for them.

PTB tokenizer, CIDEr-D, BLEU-1..4, METEOR and ROUGE-L are pycocoevalcap's own; nothing is scored anew here,
except that BLEU and METEOR are summed again from their counts for every bootstrap sample. Scores are as
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

    `images["Bleu"]` is [images, 10]: length, closest reference length, matched and all 1..4-grams;
    `images["METEOR"]` [images, 23]: the statistics that METEOR's own program adds up over a corpus.
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
    need_java()
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
        for name, scorer in (("ROUGE_L", Rouge()), ("CIDEr", Cider())):
            score, each = scorer.compute_score(truth, said)
            corpus[name], images[name] = float(score), np.asarray(each, dtype=np.float64)
        corpus["METEOR"], images["METEOR"] = _meteor(truth, said)
    return CaptionScores(corpus, images, len({text.strip().lower() for text in candidates.values()}))


def bleu_from_counts(counts: np.ndarray) -> np.ndarray:
    """BLEU-4 of summed counts, [..., 10] -> [...] (same formula and guards as pycocoevalcap)."""
    length, reference = counts[..., 0], counts[..., 1]
    precision = (counts[..., 2:6] + 1e-15) / (counts[..., 6:10] + 1e-9)
    ratio = (length + 1e-15) / (reference + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.maximum(ratio, 1e-9)), 1.0)
    return np.prod(precision, axis=-1) ** 0.25 * brevity


def _meteor(truth: dict[str, list[str]], said: dict[str, list[str]]) -> tuple[float, np.ndarray]:
    """METEOR's corpus score and each image's statistics, [images, 23]."""
    from pycocoevalcap.meteor.meteor import Meteor

    class Counting(Meteor):
        def __init__(self):
            super().__init__()
            self.counts: list[list[float]] = []

        def _stat(self, hypothesis_str, reference_list):
            line = super()._stat(hypothesis_str, reference_list)
            self.counts.append([float(number) for number in line.split()])
            return line

    scorer = Counting()
    score, _ = scorer.compute_score(truth, said)
    return float(score), np.array(scorer.counts)


_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75


def meteor_from_counts(counts: np.ndarray) -> np.ndarray:
    """METEOR 1.5 (Denkowski and Lavie 2014; English parameters) of summed statistics, [..., 23] -> [...].

    The statistics are in the order of METEOR's program: lengths of candidate and reference, their function
    words, for each of four stages the matched content and function words of both, chunks, matched words of both.
    """
    length, reference, function, reference_function = np.moveaxis(counts[..., :4], -1, 0)
    stages = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 4)
    chunks, matched, reference_matched = np.moveaxis(counts[..., 20:23], -1, 0)
    weighted = [
        (_STAGE_WEIGHTS * (_DELTA * stages[..., side] + (1 - _DELTA) * stages[..., side + 2])).sum(axis=-1)
        for side in (0, 1)
    ]
    lengths = [
        _DELTA * (all_words - functional) + (1 - _DELTA) * functional
        for all_words, functional in ((length, function), (reference, reference_function))
    ]
    precision, recall = (w / np.maximum(n, 1e-9) for w, n in zip(weighted, lengths, strict=True))
    mean = 1 / np.maximum(
        (1 - _ALPHA) / np.maximum(precision, 1e-9) + _ALPHA / np.maximum(recall, 1e-9), 1e-9
    )
    whole = (matched == length) & (reference_matched == reference) & (chunks == 1)
    fragments = np.where(whole, 0.0, chunks / np.maximum((matched + reference_matched) / 2, 1e-9))
    return np.where(matched > 0, mean * (1 - _GAMMA * fragments**_BETA), 0.0)


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
    of_sums = {"Bleu_4": bleu_from_counts, "METEOR": meteor_from_counts}.get(metric)
    return weights @ terms / len(terms) if of_sums is None else of_sums(weights @ terms)


def accuracy(right: Sequence[bool], *, samples: int = 2000, seed: int = 0) -> Interval:
    """The share of right answers with its 95 % bootstrap interval. Raises ValueError for no answers."""
    if not right:
        raise ValueError("no answers to score")
    values = np.asarray(right, dtype=np.float64)
    draws = np.random.default_rng(seed).binomial(len(values), values.mean(), size=samples) / len(values)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def need_java() -> None:
    """Raises MetricsError where there is no Java."""
    if shutil.which("java") is None:
        raise MetricsError(
            "Java is needed to score captions (PTB tokenizer, METEOR) and is not installed: "
            "apt-get install default-jre-headless"
        )


def mean_interval(values: Sequence[float], *, samples: int = 2000, seed: int = 0) -> Interval:
    """The mean of scores that take few different values, with its 95 % bootstrap interval.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no answers to score")
    levels, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    total = len(values)
    draws = np.random.default_rng(seed).multinomial(total, counts / total, size=samples) @ levels / total
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(levels @ counts / total), float(low), float(high))


@contextlib.contextmanager
def _quiet():
    """Keep pycocoevalcap's prints off stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
