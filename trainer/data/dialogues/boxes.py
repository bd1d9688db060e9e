"""Questions from object boxes: is there a ..., how many ..., what animal, left or right.

Boxes of the COCO kind are complete for their categories, so a category without a box is a true "no", and a
category with one box has a side.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .count import count_fact
from .facts import Fact, seeded, sentence
from .lexicon import Noun
from .things import CHOICES, choice_fact
from .yesno import yesno_fact

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
VEHICLES = ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat")
_RENAMED = {
    "potted plant": "plant",
    "dining table": "table",
    "sports ball": "ball",
    "couch": "sofa",
    "tv": "television",
}
_PLURALS = {"person": "people", "knife": "knives", "bus": "buses", "sandwich": "sandwiches", "bench": "benches",
            "couch": "couches", "wine glass": "wine glasses", "sheep": "sheep", "skis": "skis", "scissors": "scissors",
            "toothbrush": "toothbrushes", "mouse": "mice", "broccoli": "", "hot dog": "hot dogs"}  # fmt: skip
_NO_ARTICLE = ("broccoli", "skis", "scissors")


@dataclass(frozen=True)
class Box:
    """One object; centre and size as fractions of the picture's width and height."""

    name: str
    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        return self.width * self.height


@dataclass(frozen=True)
class BoxedPhoto:
    """A photograph or a view of one with its boxes. `cut` are the categories that a crop has cut through."""

    file: str
    boxes: tuple[Box, ...]
    cut: frozenset[str] = frozenset()


def read_boxes(path: Path) -> list[BoxedPhoto]:
    """Photographs of a JSONL file of `{"image", "objects": [{"name", "box_cxcywh"}]}`, in its order.

    Raises ValueError naming the line that is not such a record.
    """
    photos = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            boxes = tuple(Box(o["name"], *map(float, o["box_cxcywh"])) for o in record["objects"])
            photos.append(BoxedPhoto(record["image"], boxes))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path.name}, line {number}: expected {{"image", "objects"}} ({error})'
            ) from error
    return photos


def hold_out(
    photos: Sequence[BoxedPhoto], count: int, seed: int
) -> tuple[list[BoxedPhoto], list[BoxedPhoto]]:
    """(for training, held out for evaluation), the held-out ones drawn by seed."""
    held = set(seeded(seed, "coco held out").sample(sorted(p.file for p in photos), min(count, len(photos))))
    return [p for p in photos if p.file not in held], [p for p in photos if p.file in held]


def _say(name: str) -> str:
    return _RENAMED.get(name, name)


def with_article(name: str) -> str:
    """ "a dog", "an oven", "broccoli"."""
    if name in _NO_ARTICLE:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _noun(name: str) -> Noun:
    return Noun(with_article(_say(name)))


def box_yesno_facts(photos: Sequence[BoxedPhoto], seed: int, *, per_answer: int = 40) -> list[Fact]:
    """For each category as many yes (an object of 1 % of the picture or more) as no (no box at all)."""
    facts = []
    for name in sorted({b.name for p in photos for b in p.boxes}):
        rng = seeded(seed, "box yesno", name)
        yes = [p for p in photos if any(b.name == name and b.area >= 0.01 for b in p.boxes)]
        no = [p for p in photos if all(b.name != name for b in p.boxes) and name not in p.cut]
        size = min(per_answer, len(yes), len(no))
        facts += [yesno_fact(p.file, _noun(name), True) for p in rng.sample(yes, size)]
        facts += [yesno_fact(p.file, _noun(name), False) for p in rng.sample(no, size)]
    return facts


def box_count_facts(photos: Sequence[BoxedPhoto]) -> list[Fact]:
    """One to five objects of a category, all of at least 0.5 % of the picture."""
    facts = []
    for photo in photos:
        for name, number in Counter(b.name for b in photo.boxes).items():
            plural = _PLURALS.get(name, _say(name) + "s")
            large = all(b.area >= 0.005 for b in photo.boxes if b.name == name)
            if number <= 5 and large and plural and name not in photo.cut:
                fact = count_fact(photo.file, plural, _say(name), number)
                facts.append(fact)
    return facts


def box_object_facts(photos: Sequence[BoxedPhoto]) -> list[Fact]:
    """What animal or vehicle, where all of the picture's are of one category and one covers 3 %."""
    choices = {c.topic: c for c in CHOICES}
    facts = []
    for photo in photos:
        for topic, names in (("animal", ANIMALS), ("vehicle", VEHICLES)):
            found = {b.name for b in photo.boxes if b.name in names} | {n for n in photo.cut if n in names}
            if len(found) == 1 and max((b.area for b in photo.boxes if b.name in found), default=0) >= 0.03:
                facts.append(choice_fact(photo.file, choices[topic], with_article(found.pop()), ()))
    return facts


def box_side_facts(photos: Sequence[BoxedPhoto]) -> list[Fact]:
    """Left or right of every category that occurs once, covers 1.5 % and is clearly off the middle."""
    facts = []
    for photo in photos:
        numbers = Counter(b.name for b in photo.boxes)
        for box in photo.boxes:
            clear = box.x < 0.4 or box.x > 0.6
            if numbers[box.name] == 1 and box.area >= 0.015 and clear and box.name not in photo.cut:
                facts.append(side_fact(photo.file, _say(box.name), "left" if box.x < 0.4 else "right"))
    return facts


def side_fact(image: str, name: str, side: str) -> Fact:
    """The fact that `name` is on the left or right of `image`."""
    questions = (
        f"Is the {name} on the left or on the right?",
        f"Is the {name} on the right or on the left?",
        f"On which side of the picture is the {name}?",
        f"Which side is the {name} on, left or right?",
    )
    sentences = (f"The {name} is on the {side}.", f"The {name} is on the {side} side of the picture.")
    return Fact(image, "side", f"side:{name}", side, questions, sentence(f"on the {side}"), sentences)


def balance_sides(facts: Sequence[Fact], seed: int, *, limit: int) -> list[Fact]:
    """For each thing as many left as right, at most `limit` facts in all, rare things first."""
    things: dict[str, dict[str, list[Fact]]] = defaultdict(lambda: {"left": [], "right": []})
    for fact in facts:
        things[fact.topic][fact.answer].append(fact)
    pairs: list[tuple[int, float, Fact, Fact]] = []
    for topic, sides in things.items():
        rng: random.Random = seeded(seed, "sides", topic)
        left, right = (rng.sample(sides[s], len(sides[s])) for s in ("left", "right"))
        pairs += [(i, rng.random(), a, b) for i, (a, b) in enumerate(zip(left, right, strict=False))]
    pairs.sort(key=lambda pair: pair[:2])
    return [fact for pair in pairs[: limit // 2] for fact in pair[2:]]
