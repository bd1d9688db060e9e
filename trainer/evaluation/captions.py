"""Captions of photographs: COCO's metrics beside nearest neighbours, consensus, the blind model and people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from shared.config import ModelConfig
from trainer.data.dialogues.captions import Photo, read_captions
from trainer.data.dialogues.describe import FIRST_REQUEST
from trainer.evaluation.answering import Answerer, pooled
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.files import evenly, find_picture
from trainer.evaluation.metrics import CaptionScores, bootstrap, caption_scores, need_java
from trainer.evaluation.neighbours import Consensus, nearest

NEIGHBOURS = 30
METRICS = ("CIDEr", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L")
BOOTSTRAPPED = ("CIDEr", "Bleu_4", "METEOR")


class CaptionTask:
    """Every photograph of a caption file, described by every answerer and the baselines."""

    name = "captions"

    def __init__(self, config: EvaluateConfig, preset: ModelConfig):
        need_java()  # not after an hour of answers
        self.config, self.preset = config, preset
        self.photos = evenly(read_captions(config.captions), config.limit)
        self.pictures = [find_picture(photo.file, config.images) for photo in self.photos]
        self.training = read_captions(config.neighbours) if config.neighbours else []
        folders = [config.neighbour_images] if config.neighbour_images else config.images
        self.shown = [find_picture(photo.file, folders) for photo in self.training]
        self.said: dict[str, dict[str, str]] = {}

    def ask(self, answerers: dict[str, Answerer]) -> dict:
        """name -> photograph -> caption."""
        for name, answerer in answerers.items():
            texts = answerer([(FIRST_REQUEST, picture) for picture in self.pictures])
            self.said[name] = {photo.file: text for photo, text in zip(self.photos, texts, strict=True)}
        if self.training:
            self.said |= neighbour_captions(
                self.photos, self.pictures, self.training, self.shown, self.config.features, self.preset
            )
        return self.said

    def score(self) -> dict:
        """name -> scores, intervals and the difference from consensus; "human" where captions allow it."""
        results = evaluate_captions(self.photos, self.said)
        if all(len(photo.captions) > 1 for photo in self.photos):
            said, others = human_captions(self.photos)
            results["human"] = _result(caption_scores(said, others), len(said))
        return results


def evaluate_captions(
    photos: Sequence[Photo], captions: dict[str, dict[str, str]], *, against: str = "consensus"
) -> dict[str, dict]:
    """Scores of several sets of captions, name -> photograph -> caption, for the same photographs.

    Each gets `scores`, `intervals` (95 % bootstrap), `distinct` and, where `against` is one of the sets,
    `difference`: the paired bootstrap of the difference from it.
    """
    references = {photo.file: list(photo.captions) for photo in photos}
    scored = {name: caption_scores(said, references) for name, said in captions.items()}
    results: dict[str, dict] = {}
    for name, scores in scored.items():
        results[name] = _result(scores, len(captions[name]))
        if against in scored and name != against:
            results[name]["difference"] = {
                metric: asdict(bootstrap(scores, metric, against=scored[against])) for metric in BOOTSTRAPPED
            }
    return results


def _result(scores: CaptionScores, images: int) -> dict:
    return {
        "scores": {metric: scores.corpus[metric] for metric in METRICS},
        "intervals": {metric: asdict(bootstrap(scores, metric)) for metric in BOOTSTRAPPED},
        "distinct": scores.distinct,
        "images": images,
    }


def human_captions(photos: Sequence[Photo]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(the first caption of each photograph, its other captions): the ceiling that people set."""
    return {p.file: p.captions[0] for p in photos}, {p.file: list(p.captions[1:]) for p in photos}


def neighbour_captions(
    photos: Sequence[Photo],
    pictures: Sequence[Path],
    training: Sequence[Photo],
    shown: Sequence[Path],
    cache: Path,
    preset: ModelConfig,
) -> dict[str, dict[str, str]]:
    """Captions by the nearest training photograph and by consensus, with the preset's vision tower."""
    from shared.vision import load_vision_tower

    tower = load_vision_tower(preset.vision)
    queries = pooled(tower, pictures, cache).numpy()
    near = nearest(queries, pooled(tower, shown, cache).numpy(), NEIGHBOURS)
    consensus = Consensus([p.captions for p in training])
    return {
        "nearest": {p.file: consensus.first(row[0]) for p, row in zip(photos, near, strict=True)},
        "consensus": {p.file: consensus.pick(row.tolist()) for p, row in zip(photos, near, strict=True)},
    }
