"""POPE: does a model see objects that are not there? (Li et al. 2023, "Evaluating Object Hallucination in
Large Vision-Language Models")

Yes/no questions, half about objects in the picture, half about absent ones. Absent ones are drawn in three
settings: at random, the most frequent of all, and adversarially those that most often accompany what is there.
Questions come from POPE's own files or are built from object boxes in the same way. "yes" is the positive
class; replies are read as POPE's script reads them.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.evaluation.answering import Answerer
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.files import evenly, find_picture, read_records
from trainer.evaluation.journal import Item
from trainer.evaluation.metrics import Interval

PER_IMAGE = 3  # objects that are there, and as many that are not, as in POPE
SETTINGS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class PopeQuestion:
    """A question whose right answer is `label`, "yes" or "no"."""

    setting: str
    image: str
    text: str
    label: str


def read_pope(path: Path) -> list[PopeQuestion]:
    """One of POPE's JSONL files; its setting is the last word of the file's name.

    Raises ValueError where a line is no question of POPE's.
    """
    setting = path.stem.rsplit("_", 1)[-1]
    try:
        found = [PopeQuestion(setting, r["image"], r["text"], r["label"].lower()) for r in read_records(path)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not one of POPE's files: {error}") from error
    for number, question in enumerate(found, 1):
        if question.label not in ("yes", "no"):
            raise ValueError(f"{path}, question {number}: its label is {question.label!r}, not yes or no")
    return found


def build_pope(objects: Mapping[str, Sequence[str]], *, seed: int = 0) -> list[PopeQuestion]:
    """Questions of all three settings for images with at least three kinds of objects.

    Args:
        objects: image -> names of the objects in it, all of them: what is not named counts as absent.
    """
    there = {image: sorted(set(names)) for image, names in objects.items()}
    frequency = Counter(name for names in there.values() for name in names)
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for names in there.values():
        for name in names:
            together[name].update(other for other in names if other != name)
    questions = []
    for image, names in there.items():
        absent = sorted(set(frequency) - set(names))
        if len(names) < PER_IMAGE or len(absent) < PER_IMAGE:
            continue
        rng = random.Random(f"{seed}-{image}")
        shown = rng.sample(names, PER_IMAGE)
        beside = Counter()
        for name in names:
            beside.update(together[name])
        missing = {
            "random": rng.sample(absent, PER_IMAGE),
            "popular": sorted(absent, key=lambda name: (-frequency[name], name))[:PER_IMAGE],
            "adversarial": sorted(absent, key=lambda name: (-beside[name], name))[:PER_IMAGE],
        }
        for setting in SETTINGS:
            for yes, no in zip(shown, missing[setting], strict=True):
                questions.append(PopeQuestion(setting, image, _question(yes), "yes"))
                questions.append(PopeQuestion(setting, image, _question(no), "no"))
    return questions


def _question(name: str) -> str:
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"


def read_reply(reply: str) -> str:
    """ "no" where the first sentence says no or not, else "yes"."""
    words = reply.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def pope_scores(labels: Sequence[str], replies: Sequence[str], *, samples: int = 2000, seed: int = 0) -> dict:
    """Accuracy, precision, recall, F1 (with bootstrap intervals) and the share of "yes".

    Raises ValueError for no questions.
    """
    if not labels:
        raise ValueError("no questions to score")
    said = [read_reply(reply) for reply in replies]
    pairs = list(zip(labels, said, strict=True))
    counts = np.array(
        [pairs.count((a, b)) for a, b in (("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", "no"))]
    )
    draws = np.random.default_rng(seed).multinomial(len(pairs), counts / len(pairs), size=samples)
    scores = {}
    for name, metric in _METRICS.items():
        low, high = np.percentile(metric(*draws.T), [2.5, 97.5])
        scores[name] = asdict(Interval(float(metric(*counts)), float(low), float(high)))
    return scores


def _ratio(part, whole):
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


_METRICS = {
    "accuracy": lambda tp, fp, tn, fn: (tp + tn) / (tp + fp + tn + fn),
    "precision": lambda tp, fp, tn, fn: _ratio(tp, tp + fp),
    "recall": lambda tp, fp, tn, fn: _ratio(tp, tp + fn),
    "f1": lambda tp, fp, tn, fn: _ratio(2 * tp, 2 * tp + fp + fn),
    "yes_ratio": lambda tp, fp, tn, fn: (tp + fp) / (tp + fp + tn + fn),
}


class PopeTask:
    """POPE's questions, from its files or from boxes."""

    name = "pope"

    def __init__(self, config: EvaluateConfig):
        questions = [question for path in config.pope for question in read_pope(path)]
        if config.pope_boxes:
            questions += build_pope(read_objects(config.pope_boxes))
        self.questions = _limited(questions, config.limit)
        if not self.questions:
            raise ValueError("pope: no questions; an image needs three kinds of objects")
        self.items: list[Item] = [(q.text, find_picture(q.image, config.images)) for q in self.questions]
        self.replies: dict[str, list[str]] = {}

    def ask(self, answerers: dict[str, Answerer]) -> list[dict]:
        """Each question with every reply."""
        self.replies = {name: answerer(self.items) for name, answerer in answerers.items()}
        return [
            asdict(q) | {name: texts[i] for name, texts in self.replies.items()}
            for i, q in enumerate(self.questions)
        ]

    def score(self) -> dict:
        """setting -> name -> scores; `questions` counts each setting."""
        result: dict = {}
        for setting in dict.fromkeys(q.setting for q in self.questions):
            at = [i for i, q in enumerate(self.questions) if q.setting == setting]
            labels = [self.questions[i].label for i in at]
            result[setting] = {"questions": len(at)} | {
                name: pope_scores(labels, [texts[i] for i in at]) for name, texts in self.replies.items()
            }
        return result


def _limited(questions: list[PopeQuestion], limit: int | None) -> list[PopeQuestion]:
    """At most `limit` of each setting, as many with the answer yes as with no."""
    if limit is None:
        return questions
    groups: dict[tuple[str, str], list[PopeQuestion]] = defaultdict(list)
    for question in questions:
        groups[question.setting, question.label].append(question)
    half = {"yes": -(-limit // 2), "no": limit // 2}
    return [q for (_, label), group in groups.items() for q in evenly(group, half[label])]


def read_objects(path: Path) -> dict[str, list[str]]:
    """Image -> names of the objects in it, from JSONL of `image` and `objects`, or from COCO's instances_*.json.

    Raises ValueError naming the file where it is neither.
    """
    records = read_records(path)
    try:
        if len(records) == 1 and "annotations" in records[0]:
            return _coco_objects(records[0])
        return {r["image"]: [found["name"] for found in r["objects"]] for r in records}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is neither lines of image and objects with names nor COCO's instances: {error}"
        ) from error


def _coco_objects(instances: dict) -> dict[str, list[str]]:
    """Crowds count: where a crowd of people is, "person" is not absent."""
    names = {category["id"]: category["name"] for category in instances["categories"]}
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    objects: dict[str, list[str]] = {file: [] for file in files.values()}
    for box in instances["annotations"]:
        objects[files[box["image_id"]]].append(names[box["category_id"]])
    return objects
