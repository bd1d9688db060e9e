"""What somebody is doing ("What is the dog doing?"): the verb that the captions agree on.

Asked where the captions have one kind of actor (the dog, the man, the woman, the boy, the girl, the child,
the people). The answer is said by at least two captions and by more than any other verb; the others that are
said are accepted too, since a dog that runs through water may also be splashing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .captions import Photo
from .facts import Fact, sentence
from .lexicon import BOY, CHILD, DOG, FEMALE, GIRL, MALE, PEOPLE, word_set

VERBS: dict[str, str] = {
    "running": "run runs running ran races racing sprints sprinting bounding bounds jog jogging",
    "jumping": "jump jumps jumping leaps leaping leap jumped midair hops hopping",
    "swimming": "swim swims swimming swam",
    "sleeping": "sleep sleeps sleeping asleep nap napping naps",
    "walking": "walk walks walking strolling strolls",
    "sitting": "sit sits sitting seated",
    "standing": "stand stands standing",
    "lying down": "lying lies laying lays",
    "playing": "play plays playing",
    "climbing": "climb climbs climbing climber climbers",
    "riding a bicycle": "bicycle bike bicyclist cyclist",
    "riding a horse": "horse horseback",
    "riding a motorcycle": "motorcycle motorcyclist",
    "skateboarding": "skateboard skateboarding skateboarder skateboards",
    "surfing": "surf surfing surfs surfer",
    "skiing": "ski skiing skier skis",
    "snowboarding": "snowboard snowboarder snowboarding snowboards",
    "swinging": "swing swings swinging",
    "sliding": "slide slides sliding",
    "dancing": "dance dances dancing",
    "eating": "eat eats eating",
    "drinking": "drink drinks drinking",
    "reading": "read reads reading",
    "singing": "sing sings singing",
    "painting": "painting paints",
    "smoking": "smoking smokes cigarette",
    "fishing": "fishing fishes fisherman",
    "kicking a ball": "kick kicks kicking",
    "throwing": "throw throws throwing",
    "catching": "catch catches catching",
    "chasing": "chase chases chasing",
    "biting": "bite bites biting chewing chews",
    "shaking": "shake shakes shaking",
    "digging": "dig digs digging",
    "rolling": "roll rolls rolling",
    "talking": "talk talks talking chatting conversing",
    "smiling": "smile smiles smiling grins grinning",
    "posing": "pose poses posing",
    "kayaking": "kayak kayaking kayaker",
    "fighting": "fight fights fighting wrestling wrestle",
    "splashing": "splash splashes splashing",
    "crawling": "crawl crawls crawling",
    "kissing": "kiss kisses kissing",
    "hugging": "hug hugs hugging",
    "carrying something": "carry carries carrying",
    "blowing bubbles": "bubbles",
    "taking a picture": "photographer photographing photographs",
}  # fmt: skip
_WORDS = {verb: frozenset(words.split()) for verb, words in VERBS.items()}
_WEAK = frozenset({"standing", "smiling", "posing", "playing", "carrying something", "sitting"})
_ACTORS: dict[str, frozenset[str]] = {
    "man": MALE, "woman": FEMALE, "boy": BOY, "girl": GIRL, "child": CHILD - BOY - GIRL,
}  # fmt: skip
_SEVERAL = word_set(
    """two three four five several people men women boys girls children kids players team couple another group
    crowd"""
)


def actor(photo: Photo) -> str | None:
    """The one kind of actor of a photograph ("dog", "dogs", "man", ...), "people" for several; None if mixed."""
    dogs, people = photo.mentions(DOG), photo.mentions(PEOPLE)
    if dogs and people:
        return None
    if dogs >= 4:
        several = photo.mentions(
            ("dogs", "puppies", "greyhounds", "poodles", "two", "another", "other", "animals")
        )
        return "dogs" if several >= 4 else "dog" if several == 0 else None
    if people < 4:
        return None
    named = {name for name, words in _ACTORS.items() if photo.mentions(words) >= 2}
    if named == {"boy", "child"} or named == {"girl", "child"}:
        named.discard("child")
    if len(named) == 1 and not photo.mentions(_SEVERAL):
        return named.pop()
    return "people" if len(named) > 1 or photo.mentions(_SEVERAL) >= 3 else None


def activity_facts(photos: Sequence[Photo]) -> list[Fact]:
    """Every activity that the captions of a photograph agree on (before balancing)."""
    facts = []
    for photo in photos:
        who = actor(photo)
        if who is None:
            continue
        votes = Counter({verb: photo.mentions(words) for verb, words in _WORDS.items()})
        strong = Counter({v: n for v, n in votes.items() if v not in _WEAK})
        (best, first), (_, second) = (strong if max(strong.values()) >= 2 else votes).most_common(2)
        if first < 2 or second >= first:
            continue
        accepted = [v for v, n in votes.items() if n and v != best] + sorted(_WORDS[best])
        facts.append(_fact(photo.file, who, best, tuple(accepted)))
    return facts


def _fact(image: str, who: str, verb: str, accepted: tuple[str, ...]) -> Fact:
    be = "are" if who in ("dogs", "people") else "is"
    questions = (
        f"What {be} the {who} doing?",
        f"What {be} the {who} doing in this photo?",
        f"Which activity {be} the {who} engaged in?",
    )
    sentences = (f"The {who} {be} {verb}.",)
    return Fact(image, "activity", f"activity:{who}", verb, questions, sentence(verb), sentences, accepted)
