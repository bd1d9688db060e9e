"""Counting questions, from the numerals and articles of captions.

A caption counts a class when each of its mentions has a number: "two dogs" and "a black dog and a white dog"
are two, "dogs" alone says nothing. Two captions must agree and none may differ; for one, four captions must
say one and none a plural.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .captions import Photo
from .facts import Fact, sentence
from .lexicon import word_set

NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "2": 2, "3": 3, "4": 4, "5": 5}
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five")
_ONE = frozenset(
    {"a", "an", "one", "the", "another", "this", "lone", "single", "his", "her", "their", "1", "other"}
)

_PLURALS = {
    "men": "man", "women": "woman", "boys": "boy", "girls": "girl", "children": "child", "kids": "kid",
    "people": "person", "persons": "person", "ladies": "lady", "guys": "guy", "toddlers": "toddler",
    "babies": "baby", "females": "female", "males": "male", "adults": "adult", "players": "player",
    "dogs": "dog", "puppies": "puppy", "greyhounds": "greyhound", "poodles": "poodle", "horses": "horse",
    "friends": "friend", "teenagers": "teenager", "surfers": "surfer", "skiers": "skier", "hikers": "hiker",
    "snowboarders": "snowboarder", "skateboarders": "skateboarder", "climbers": "climber",
    "motorcyclists": "motorcyclist", "bicyclists": "bicyclist", "cyclists": "cyclist", "runners": "runner",
    "bikers": "biker", "teens": "teen", "racers": "racer", "soldiers": "soldier", "dancers": "dancer",
    "riders": "rider", "swimmers": "swimmer", "birds": "bird", "boats": "boat", "bikes": "bike",
}  # fmt: skip
_ANIMALS = frozenset({"dog", "puppy", "greyhound", "poodle", "horse", "bird", "boat", "bike"})
_PEOPLE = frozenset(_PLURALS.values()) - _ANIMALS
CLASSES: dict[str, tuple[str, frozenset[str]]] = {
    "dogs": ("dog", frozenset({"dog", "puppy", "greyhound", "poodle"})),
    "people": ("person", _PEOPLE),
    "men": ("man", frozenset({"man", "guy", "male"})),
    "women": ("woman", frozenset({"woman", "lady", "female"})),
    "boys": ("boy", frozenset({"boy"})),
    "girls": ("girl", frozenset({"girl"})),
    "children": ("child", frozenset({"child", "kid", "boy", "girl", "toddler", "baby"})),
    "horses": ("horse", frozenset({"horse"})),
}
_UNCOUNTED = word_set(
    """group crowd several many some team family other others couple each both pack bunch lots everyone band
    spectators audience owner onlookers fans friends dogs' six seven eight nine ten dozen adult mother father
    mom dad parent parents brother sister twins pair they"""
)


def _caption_count(words: list[str], singulars: frozenset[str]) -> int | None:
    """How many of a class a caption counts; 0 for no mention, None where a mention has no number."""
    total = 0
    for at, word in enumerate(words):
        singular = _PLURALS.get(word, word)
        if singular not in singulars or (at + 1 < len(words) and words[at + 1] in singulars):
            continue
        before = words[max(0, at - 5) : at]
        number = next((w for w in reversed(before) if w in NUMBERS or w in _ONE or w in _PLURALS), None)
        if word in _PLURALS:
            if number not in NUMBERS:
                return None
            total += NUMBERS[number]
        else:
            if number in NUMBERS:
                return None
            total += 1
    return total


def count_facts(photos: Sequence[Photo]) -> list[Fact]:
    """Every number that the captions of a photograph agree on (before balancing)."""
    facts = []
    for photo in photos:
        for plural, (singular, words) in CLASSES.items():
            counts = [_caption_count(t, words) for t in photo.token_lists]
            sure = Counter(c for c in counts if c)
            if len(sure) != 1:
                continue
            (number, votes), unsaid = sure.most_common(1)[0], counts.count(None)
            group = photo.mentions(_UNCOUNTED)
            clear = votes >= 4 and not unsaid and not group if number == 1 else votes >= 2 and group <= 1
            if clear and number <= 5 and (plural != "people" or 0 not in counts or number > 1):
                facts.append(count_fact(photo.file, plural, singular, number))
    return facts


def count_fact(image: str, plural: str, singular: str, number: int) -> Fact:
    """The fact that `image` shows `number` (1 to 5) of a class."""
    word = NUMBER_WORDS[number]
    questions = (
        f"How many {plural} are there?",
        f"How many {plural} are in the photo?",
        f"How many {plural} can you see in this picture?",
        f"Count the {plural} in the image.",
    )
    be, name = ("is", singular) if number == 1 else ("are", plural)
    sentences = (f"There {be} {word} {name}.", f"There {be} {word} {name} in the photo.")
    return Fact(image, "count", f"count:{plural}", word, questions, sentence(word), sentences, (str(number),))
