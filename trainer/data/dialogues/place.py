"""Where a photograph was taken, and whether indoors or outdoors, from the places that captions name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .captions import Photo
from .facts import Fact, sentence
from .lexicon import word_set
from .things import Choice, choice_facts

_PREPOSITIONS = {
    "beach": "on the beach", "snow": "in the snow", "street": "on the street", "pool": "in a swimming pool",
    "forest": "in a forest", "field": "in a field", "park": "in a park", "lake": "at a lake", "river": "at a river",
    "ocean": "in the ocean", "mountain": "in the mountains", "playground": "on a playground",
    "track": "on a race track", "stadium": "in a stadium", "kitchen": "in a kitchen", "restaurant": "in a restaurant",
    "store": "in a store", "desert": "in the desert", "stage": "on a stage", "sidewalk": "on a sidewalk",
    "yard": "in a yard", "rocks": "on the rocks", "bed": "in bed", "court": "on a court", "train": "in a train station",
    "skate park": "in a skate park", "bridge": "on a bridge", "dock": "on a dock",
}  # fmt: skip

PLACES = Choice(
    "place",
    (
        "Where was this photo taken?",
        "Where is this?",
        "What place is shown in the picture?",
        "In what kind of place was this photo taken?",
    ),
    "",
    {
        "beach": "beach beaches", "snow": "snow snowy", "street": "street road traffic", "pool": "pool",
        "forest": "forest woods wooded", "field": "field meadow grass grassy", "park": "park", "lake": "lake pond",
        "river": "river stream creek rapids", "ocean": "ocean sea surf surfer surfing wave waves",
        "mountain": "mountain mountains", "playground": "playground", "track": "track racetrack",
        "stadium": "stadium arena", "kitchen": "kitchen", "restaurant": "restaurant cafe bar diner",
        "store": "store shop market", "desert": "desert dune dunes", "stage": "stage", "sidewalk": "sidewalk",
        "yard": "yard backyard lawn", "rocks": "cliff rock rocks rocky", "bed": "bed", "court": "court",
        "train": "subway", "skate park": "skatepark skate-park", "bridge": "bridge", "dock": "dock pier",
    },
)  # fmt: skip

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


def place_facts(photos: Sequence[Photo]) -> list[Fact]:
    """Places the captions agree on, and indoors or outdoors (before balancing)."""
    facts = []
    for fact in choice_facts(photos, (PLACES,), "place"):
        where = _PREPOSITIONS[fact.answer]
        sentences = (f"This photo was taken {where}.", f"The place is {where}.")[:1]
        facts.append(replace(fact, short=sentence(where), sentences=sentences))
    for photo in photos:
        indoors, outdoors = photo.mentions(_INDOORS), photo.mentions(_OUTDOORS)
        if (
            max(indoors, outdoors) >= 2
            and not (indoors and outdoors)
            and not photo.mentions(_PARTLY - _INDOORS - _OUTDOORS)
        ):
            facts.append(_indoors_fact(photo.file, "indoors" if indoors else "outdoors"))
    return facts


def _indoors_fact(image: str, answer: str) -> Fact:
    questions = (
        "Was this photo taken indoors or outdoors?",
        "Is this indoors or outdoors?",
        "Is the scene outdoors or indoors?",
    )
    sentences = (f"The photo was taken {answer}.",)
    accepted = ("inside", "indoor") if answer == "indoors" else ("outside", "outdoor")
    return Fact(image, "place", "place:indoors", answer, questions, sentence(answer), sentences, accepted)
