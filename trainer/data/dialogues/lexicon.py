"""Words for people and animals, and the nouns of "is there a ...?" (`nouns.toml`).

A noun is present where enough captions say one of its `words`; it is absent only where no caption says any
of its `words` or its `doubt` words (hypernyms, parts, scenes and sports that come with it).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files


def word_set(text: str) -> frozenset[str]:
    """The words of `text`; @name in it stands for a whole set of `GROUPS`."""
    words: set[str] = set()
    for word in text.split():
        words |= GROUPS[word[1:]] if word.startswith("@") else {word}
    return frozenset(words)


GROUPS: dict[str, frozenset[str]] = {}
MALE = word_set("man men guy guys gentleman male males father dad groom businessman fisherman cowboy")
FEMALE = word_set("woman women lady ladies female females mother mom bride gal")
BOY = word_set("boy boys")
GIRL = word_set("girl girls")
CHILD = word_set("child children kid kids toddler toddlers baby babies infant infants")
NEUTRAL = word_set(
    """person people someone somebody player players rider riders biker bikers surfer surfers skier skiers
    snowboarder snowboarders skateboarder skateboarders swimmer swimmers climber climbers hiker hikers runner
    runners team crowd group couple family cyclist cyclists bicyclist bicyclists motorcyclist worker workers
    performer dancer dancers adult adults teen teens teenager teenagers youth youths friend friends driver racer
    racers soldier soldiers police officer officers skater skaters boarder kayaker artist musician band wrestler
    gymnast individual individuals human humans they he she his her him owner audience spectators pedestrian
    pedestrians student students persons lone others everyone hand hands arm legs quarterback goalie batter
    pitcher referee cheerleader cheerleaders jogger joggers athlete athletes shopper musicians singer tourists
    onlookers fan fans parent parents brother sister twins"""
)
PEOPLE = MALE | FEMALE | BOY | GIRL | CHILD | NEUTRAL
DOG = word_set(
    """dog dogs puppy puppies greyhound greyhounds poodle poodles terrier retriever labrador lab collie dalmatian
    beagle dachshund bulldog pug chihuahua canine canines doggy pup pups husky rottweiler doberman mutt hound
    hounds boxer spaniel shepherd corgi"""
)
GROUPS |= {
    "male": MALE,
    "female": FEMALE,
    "child": CHILD,
    "neutral": NEUTRAL,
    "people": PEOPLE,
    "someone": PEOPLE - word_set("hand hands arm legs he she his him her they others"),
    "dog": DOG,
}


@dataclass(frozen=True)
class Noun:
    """`phrase` is the noun with its article ("a dog"), `name` the noun without."""

    phrase: str
    words: frozenset[str] = frozenset()
    doubt: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return bare(self.phrase)


def bare(phrase: str) -> str:
    """A noun phrase without its article."""
    return phrase.split(" ", 1)[1] if phrase.startswith(("a ", "an ", "the ")) else phrase


def read_table(file: str) -> dict:
    """A TOML table that lies beside this module."""
    return tomllib.loads(files(__package__).joinpath(file).read_text(encoding="utf-8"))


YESNO_NOUNS: tuple[Noun, ...] = tuple(
    Noun(entry["phrase"], word_set(entry["words"]), word_set(entry.get("doubt", "")))
    for entry in read_table("nouns.toml")["noun"]
)
