"""Who is in the photograph, and "a man or a woman?", where all captions speak of the same sort of person."""

from __future__ import annotations

from collections.abc import Sequence

from .captions import Photo
from .facts import Fact, sentence
from .lexicon import DOG, FEMALE, MALE, PEOPLE, word_set

_GROUPS = {
    "a man": MALE - {"men", "guys", "males", "male", "father", "dad"},
    "a woman": FEMALE - {"women", "ladies", "females", "female", "mother", "mom"},
    "a boy": frozenset({"boy"}),
    "a girl": frozenset({"girl"}),
    "a baby": frozenset({"baby", "infant"}),
    "men": frozenset({"men", "guys"}),
    "women": frozenset({"women", "ladies"}),
    "boys": frozenset({"boys"}),
    "girls": frozenset({"girls"}),
    "a man and a woman": frozenset(),
}
_SINGULAR_NEUTRAL = word_set(
    """person someone rider player skateboarder snowboarder surfer skier climber biker cyclist hiker swimmer runner
    child kid toddler he she his her him hand hands arm legs motorcyclist bicyclist dancer performer artist
    driver skater racer individual somebody boarder human teen teenager youth kayaker batter pitcher musician"""
)
_PLURAL_NEUTRAL = word_set("people children kids players they others friends persons adults teens youths")


def _answer(photo: Photo) -> str | None:
    said = {w for w in photo.said if w in PEOPLE}
    if not said:
        return "no one" if photo.mentions(DOG) >= 4 else None
    for answer, words in _GROUPS.items():
        neutral = (
            _SINGULAR_NEUTRAL if answer.startswith("a ") else _PLURAL_NEUTRAL | {"hands", "legs", "their"}
        )
        if (
            photo.mentions(words) >= 3
            and said <= words | neutral
            and not photo.mentions(("another", "other"))
        ):
            return answer
    counted = [t for t in photo.token_lists if "man" in t and "woman" in t]
    pair = {
        "man",
        "woman",
        "couple",
        "people",
        "two",
        "they",
        "lady",
        "his",
        "her",
        "he",
        "she",
        "hand",
        "hands",
    }
    return "a man and a woman" if len(counted) >= 3 and said <= pair else None


def who_facts(photos: Sequence[Photo]) -> list[Fact]:
    """Who is in the photograph, where unambiguous (before balancing)."""
    facts = []
    for photo in photos:
        answer = _answer(photo)
        if answer is None:
            continue
        facts.append(_who_fact(photo.file, answer))
        if answer in ("a man", "a woman", "a boy", "a girl"):
            facts.append(_pair_fact(photo.file, answer))
    return facts


def _who_fact(image: str, answer: str) -> Fact:
    questions = ("Who is in the photo?", "Who can you see in this picture?", "Who is shown in the image?")
    name = answer.removeprefix("a ") if " and " not in answer else answer
    be = "is" if answer.startswith("a ") or answer == "no one" else "are"
    long = "There is no one in the photo." if answer == "no one" else f"There {be} {answer} in the photo."
    accepted = {"no one": ("nobody", "no person", "no people", "dog")}.get(answer, (answer, name.rstrip("s")))
    if answer in ("men", "women"):
        accepted = (answer,)
    return Fact(image, "who", "who", name, questions, sentence(answer), (long,), accepted)


def _pair_fact(image: str, answer: str) -> Fact:
    pair, one, other = (
        ("adult", "a man", "a woman") if answer in ("a man", "a woman") else ("child", "a boy", "a girl")
    )
    subject = "person" if pair == "adult" else "child"
    questions = (
        f"Is the {subject} {one} or {other}?",
        f"Is this {other} or {one}?",
        f"Is it {one} or {other}?",
    )
    bare = answer.removeprefix("a ")
    long = f"The {subject} is {answer}."
    return Fact(image, "who", f"who:{pair}", bare, questions, sentence(answer), (long,), (answer,))
