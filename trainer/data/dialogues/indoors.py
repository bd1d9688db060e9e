"""Indoors or outdoors, from the places that captions name. (Which place: see `choices.toml`.)"""

from __future__ import annotations

from collections.abc import Sequence

from .captions import Photo
from .facts import Fact, sentence
from .lexicon import word_set

_INDOORS = word_set(
    """indoors indoor inside kitchen bedroom room couch sofa bed living restaurant bathroom carpet desk office
    classroom hallway bathtub gym cafe museum mall library ceiling crib highchair studio"""
)
_OUTDOORS = word_set(
    """outdoors outdoor outside grass grassy beach snow snowy street mountain mountains field park forest woods sky
    ocean lake river sidewalk road yard sand sandy trail cliff hill playground sea lawn desert backyard path
    trees tree garden meadow pond stream dirt wave surfer skier snowboarder city"""
)
_PARTLY = word_set("window indoor inside outside train car bus tent stadium doorway door porch")


def indoors_facts(photos: Sequence[Photo]) -> list[Fact]:
    """Indoors or outdoors, where two captions name such a place and none one of the other sort."""
    facts = []
    for photo in photos:
        indoors, outdoors = photo.mentions(_INDOORS), photo.mentions(_OUTDOORS)
        if (
            max(indoors, outdoors) >= 2
            and not (indoors and outdoors)
            and not photo.mentions(_PARTLY - _INDOORS - _OUTDOORS)
        ):
            facts.append(_fact(photo.file, "indoors" if indoors else "outdoors"))
    return facts


def _fact(image: str, answer: str) -> Fact:
    questions = (
        "Was this photo taken indoors or outdoors?",
        "Is this indoors or outdoors?",
        "Is the scene outdoors or indoors?",
    )
    sentences = (f"The photo was taken {answer}.",)
    accepted = ("inside", "indoor") if answer == "indoors" else ("outside", "outdoor")
    return Fact(image, "place", "place:indoors", answer, questions, sentence(answer), sentences, accepted)
