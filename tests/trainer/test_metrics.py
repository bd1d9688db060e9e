"""Caption scores against pycocoevalcap called directly, and what people score against people."""

import shutil

import numpy as np
import pytest

from trainer.data.dialogues.captions import read_captions
from trainer.evaluation.captions import human_captions
from trainer.evaluation.metrics import (
    CaptionScores,
    MetricsError,
    accuracy,
    bleu_from_counts,
    bootstrap,
    caption_scores,
    mean_interval,
    meteor_from_counts,
    tokenize,
)
from trainer.evaluation.neighbours import Consensus, nearest


@pytest.fixture(scope="module")
def human(data_dir) -> tuple[CaptionScores, dict[str, str], dict[str, list[str]]]:
    """Scores of the first caption of 100 dev photographs against the other four; one run of Java for all tests."""
    if shutil.which("java") is None:
        pytest.skip("no Java for PTB tokenizer and METEOR")
    said, others = human_captions(read_captions(data_dir / "flickr8k" / "captions_dev.tsv")[:100])
    return caption_scores(said, others), said, others


def test_people_against_people(human):
    scores, said, _ = human
    for metric, least, most in (("CIDEr", 0.5, 1.1), ("Bleu_4", 0.1, 0.35), ("METEOR", 0.2, 0.32)):
        interval = bootstrap(scores, metric)
        assert least < interval.low < interval.high < most
        assert interval.low < scores.corpus[metric] < interval.high
    assert scores.distinct == len(set(said.values()))


def test_scores_are_those_of_pycocoevalcap(human):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    scores, said, others = human
    truth, candidates = tokenize(others), tokenize({key: [text] for key, text in said.items()})
    bleu, _ = Bleu(4).compute_score(truth, candidates, verbose=0)
    assert [scores.corpus[f"Bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleu)
    assert bleu_from_counts(scores.images["Bleu"].sum(axis=0)) == pytest.approx(bleu[3])
    for name, scorer in (("CIDEr", Cider()), ("ROUGE_L", Rouge())):
        score, each = scorer.compute_score(truth, candidates)
        assert scores.corpus[name] == pytest.approx(score)
        assert scores.images[name] == pytest.approx(each)


def test_meteor_of_summed_statistics_is_that_of_its_own_program(human):
    from pycocoevalcap.meteor.meteor import Meteor

    scores, said, others = human
    truth, candidates = tokenize(others), tokenize({key: [text] for key, text in said.items()})
    corpus, each = Meteor().compute_score(truth, candidates)
    counts = scores.images["METEOR"]
    assert meteor_from_counts(counts) == pytest.approx(each, abs=1e-9)
    assert meteor_from_counts(counts.sum(axis=0)) == pytest.approx(corpus, abs=1e-9)
    assert scores.corpus["METEOR"] == pytest.approx(corpus, abs=1e-9)


def test_differences_are_paired():
    """Two systems as far apart on every image: the difference is sure although each alone is not."""
    each = np.random.default_rng(0).uniform(0, 2, size=200)
    worse = CaptionScores({"CIDEr": float(each.mean())}, {"CIDEr": each}, 1)
    better = CaptionScores({"CIDEr": float(each.mean()) + 0.05}, {"CIDEr": each + 0.05}, 1)
    alone, difference = bootstrap(better, "CIDEr"), bootstrap(better, "CIDEr", against=worse)
    assert alone.low < worse.corpus["CIDEr"]
    assert difference.low == pytest.approx(0.05)
    assert difference.high == pytest.approx(0.05)


def test_no_java_is_said_plainly(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MetricsError, match="Java is needed"):
        tokenize({"a.jpg": ["A dog."]})


def test_accuracy_has_an_interval():
    interval = accuracy([True] * 75 + [False] * 25)
    assert interval.value == 0.75
    assert 0.6 < interval.low < 0.75 < interval.high < 0.9
    with pytest.raises(ValueError, match="no answers"):
        accuracy([])


def test_means_of_partial_scores_have_an_interval():
    interval = mean_interval([0.0, 0.3, 0.6, 1.0] * 50)
    assert interval.value == pytest.approx(0.475)
    assert 0.4 < interval.low < 0.475 < interval.high < 0.55
    assert mean_interval([1.0, 1.0]).low == 1.0


def test_nearest_is_by_direction_and_not_by_scale():
    photos = np.array([[1.0, 100.0], [1.0, -100.0], [-1.0, 100.0], [-1.0, -100.0]])
    assert nearest(np.array([[0.9, -80.0]]), photos, 2)[0][0] == 1


def test_consensus_prefers_what_most_captions_say():
    consensus = Consensus(
        [
            ["A dog runs on the beach.", "A brown dog is on the beach."],
            ["A dog runs on the sand.", "A dog runs along the beach."],
            ["A man sells shoes.", "A shop full of shoes."],
        ]
    )
    assert "dog" in consensus.pick([0, 1, 2])
    assert consensus.pick([2]) in ("A man sells shoes.", "A shop full of shoes.")
    assert consensus.pick([0, 1, 2]) == consensus.pick([0, 1, 2])
