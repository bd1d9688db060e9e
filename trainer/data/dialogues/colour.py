"""Colour questions, from "(colour) (noun)" in captions.

Asked only where the captions agree: no caption gives that noun another colour, and either two captions give
the colour or nobody else is in the photograph whose shirt it could be. "Black and white" is an answer of its
own; brown and tan, which people mix up, count as one and each is accepted for the other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from .captions import Photo
from .facts import Fact, seeded, sentence
from .lexicon import DOG, word_set

COLOURS = {c: c for c in "black white brown red blue yellow green orange pink purple gray tan".split()} | {
    "grey": "gray",
    "golden": "brown",
    "beige": "tan",
    "violet": "purple",
    "maroon": "red",
    "navy": "blue",
}
_FAMILY = {"tan": "brown"}

NOUNS: dict[str, frozenset[str]] = {
    "dog": DOG - {w for w in DOG if w.endswith("s")},
    "horse": frozenset({"horse", "pony"}),
    "cat": frozenset({"cat", "kitten"}),
    "bird": frozenset({"bird"}),
    "shirt": frozenset({"shirt", "tshirt", "t-shirt", "top", "jersey"}),
    "sweater": frozenset({"sweater", "sweatshirt"}),
    "jacket": frozenset({"jacket", "coat", "parka"}),
    "dress": frozenset({"dress"}),
    "pants": frozenset({"pants", "trousers"}),
    "shorts": frozenset({"shorts"}),
    "hat": frozenset({"hat", "cap", "beanie"}),
    "helmet": frozenset({"helmet"}),
    "swimsuit": frozenset({"swimsuit", "bikini", "trunks"}),
    "uniform": frozenset({"uniform"}),
    "suit": frozenset({"suit", "snowsuit", "wetsuit"}),
    "ball": frozenset({"ball", "tennis-ball"}),
    "frisbee": frozenset({"frisbee"}),
    "toy": frozenset({"toy"}),
    "car": frozenset({"car"}),
    "bicycle": frozenset({"bicycle", "bike"}),
    "motorcycle": frozenset({"motorcycle"}),
    "boat": frozenset({"boat", "canoe", "kayak", "raft"}),
    "slide": frozenset({"slide"}),
    "wall": frozenset({"wall"}),
    "umbrella": frozenset({"umbrella"}),
    "bench": frozenset({"bench"}),
    "flower": frozenset({"flower", "flowers"}),
    "collar": frozenset({"collar"}),
}
_SEVERAL = {name: words | {w + "s" for w in words} for name, words in NOUNS.items()} | {
    "dog": DOG | {"dogs", "animals"}
}
_GROUP = frozenset(
    "two three four five six several both many group people men women boys girls children kids players team "
    "couple another other others crowd".split()
)
_PLURAL = ("pants", "shorts")
_BETWEEN = word_set(
    """long short sleeved striped plaid leather hooded winter life fluffy furry shaggy large small little big
    spotted haired short-haired long-haired puffy baseball cowboy knit checkered polo tank bathing swim wet
    plastic soccer tennis football race inflatable toy brick rubber bouncy squeaky lace denim colored mountain
    dirt ski straw sleeveless floral wool button-down dress hoodie hard bike hunting soft fuzzy curly"""
)


def _phrases(words: list[str]) -> list[tuple[str, str]]:
    """(noun, colour) for every coloured noun of a caption; two colours in order, as "black and white"."""
    found = []
    for name, nouns in NOUNS.items():
        for at, word in enumerate(words):
            if word not in nouns or (at + 1 < len(words) and words[at + 1] == "'s"):
                continue
            back = at - 1
            while back >= 0 and at - back <= 3 and words[back] in _BETWEEN:
                back -= 1
            if back < 0 or words[back] not in COLOURS:
                continue
            colour = COLOURS[words[back]]
            joined = back >= 2 and (words[back - 1] == "and" or words[back - 1] in COLOURS)
            first = words[back - 2] if joined and words[back - 1] == "and" else words[back - 1]
            if joined and first in COLOURS and COLOURS[first] != colour:
                colour = " and ".join(sorted((COLOURS[first], colour)))
            elif joined and words[back - 1] == "and":
                colour = f"? and {colour}"
            found.append((name, colour))
    return found


def _family(colour: str) -> str:
    return " and ".join(sorted({_FAMILY.get(c, c) for c in colour.split(" and ")}))


def colour_facts(photos: Sequence[Photo]) -> list[Fact]:
    """Every colour that the captions of a photograph agree on (before balancing)."""
    facts = []
    for photo in photos:
        said: dict[str, Counter[str]] = {}
        for words in photo.token_lists:
            for name, colour in dict.fromkeys(_phrases(words)):
                said.setdefault(name, Counter())[colour] += 1
        for name, colours in said.items():
            families = Counter()
            for colour, votes in colours.items():
                families[_family(colour)] += votes
            (family, votes), total = families.most_common(1)[0], families.total()
            if "?" in family or (votes < total and (votes < 3 or total - votes > 1)):
                continue
            worn = name not in ("dog", "horse", "cat", "bird")
            several = (
                photo.mentions(_GROUP) if worn else photo.mentions(_SEVERAL[name] - NOUNS[name] | _GROUP)
            )
            if several and (votes < 2 or not worn):
                continue
            answer = max((c for c in colours if _family(c) == family), key=lambda c: (colours[c], c))
            facts.append(_fact(photo.file, name, answer, family))
    return facts


def colour_yesno_facts(facts: Sequence[Fact], seed: int) -> list[Fact]:
    """ "Is the dog black?" from colour facts: for each noun and plain colour as many yes as no."""
    by_noun: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_noun[fact.topic.partition(":")[2]].append(fact)
    made = []
    for name, group in sorted(by_noun.items()):
        be = "are" if name in _PLURAL else "is"
        for colour in sorted(set(COLOURS.values()) - {"tan"}):
            yes = [f for f in group if f.answer == colour]
            no = [f for f in group if colour not in _family(f.answer).split(" and ")]
            rng = seeded(seed, "colour?", name, colour)
            size = min(len(yes), len(no))
            for fact in rng.sample(yes, size) + rng.sample(no, size):
                present = fact.answer == colour
                questions = (f"{be.capitalize()} the {name} {colour}?",)
                long = f"Yes, the {name} {be} {colour}." if present else f"No, the {name} {be} {fact.answer}."
                answer = "yes" if present else "no"
                topic = f"colour_yesno:{name} {colour}"
                made.append(
                    Fact(fact.image, "colour_yesno", topic, answer, questions, sentence(answer), (long,))
                )
    return made


def _fact(image: str, name: str, answer: str, family: str) -> Fact:
    be = "are" if name in _PLURAL else "is"
    questions = tuple(
        form.format(word=word, be=be, name=name)
        for word in ("color", "colour")
        for form in (
            "What {word} {be} the {name}?",
            "Which {word} {be} the {name}?",
            "Tell me the {word} of the {name}.",
        )
    )
    accepted = (family, answer.replace("gray", "grey"), *(("tan", "brown") if family == "brown" else ()))
    sentences = (f"The {name} {be} {answer}.",)
    return Fact(image, "colour", f"colour:{name}", answer, questions, sentence(answer), sentences, accepted)
