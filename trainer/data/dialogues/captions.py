"""Photographs with their human captions: reading, cleaning, and the words the rules look at.

`clean` makes a caption a proper sentence for training; `tokens` makes it a list of lower-case words for the
rules, with the spellings and word pairs that would mislead them joined ("hot dog" is no dog).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_JOINED = {
    r"hot ?dogs?": "hotdog",
    r"dog (sled|house|show|park|collar|leash|toy|tag)s?": r"dog-\1",
    r"(dirt|motor|quad)[ -]?bik(e|es|er|ers|ing)\b": "motorcycle",
    r"motor ?cross|motocross": "motorcycle",
    r"(mountain|bmx) bik(e|es)\b": "bicycle",
    r"(skate|snow|surf|wake|skim|body|boogie)[ -]board(s|er|ers|ing|ed)?\b": r"\1board\2",
    r"(t)[ -]+shirts?\b": "tshirt",
    r"ice[ -]cream": "icecream",
    r"teddy bears?": "teddybear",
    r"stuffed (animal|toy|dog|bear)s?": "teddybear",
    r"toy (car|truck|train|boat|horse|dog|gun|airplane|plane)s?": r"toy-\1",
    r"(subway|train|bumper|cable|go) (car|cart)s?": r"\1-\2",
    r"(sea|beach) ?(gull|shell|ball)s?": r"\1\2",
    r"rock(ing)? (band|star|concert|music|horse)s?": r"\2",
    r"(fire|water) (hydrant|fountain|bottle|gun|slide|hose|ski|skis|skier|skiing|balloon)s?": r"\1-\2",
    r"pool table": "billiards",
    r"cell[ -]?phones?": "cellphone",
    r"monkey bars?": "monkey-bars",
    r"(merry)[ -]go[ -]round": "carousel",
    r"american football": "football",
    r"foot ?ball": "football",
    r"(snow|sand|basket|base|volley|soft|paint|tennis|soccer|golf) ball\b": r"\1-ball",
    r"(life) (jacket|vest)s?": r"lifevest",
    r"baby (blue|pink|carriage|stroller|pool)": r"\1",
    r"(orange|lemon|apple) (juice|slice)s?": "juice",
    r"no one|nobody": "nobody",
}
_JOINED_RE = [(re.compile(rf"\b{pattern}\b"), to) for pattern, to in _JOINED.items()]
_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*(?:'s)?")


def clean(caption: str) -> str:
    """A sentence: capital first letter, single spaces, none before punctuation, one full stop at the end.

    Empty when fewer than three words are left.
    """
    text = re.sub(r'["#`]|\'\'', "", caption)
    text = re.sub(r"\s+([,.;:!?)]|'s\b|n't\b)", r"\1", text)
    text = re.sub(r"([(])\s+", r"\1", text)
    text = re.sub(r"(\w) +- +(\w)", r"\1-\2", text)
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?-")
    if len(text.split()) < 3:
        return ""
    return text[0].upper() + text[1:] + "."


def tokens(caption: str) -> list[str]:
    """Lower-case words of a caption in order; joined pairs keep their hyphen, "man's" becomes "man", "'s"."""
    text = re.sub(r"\s+'s\b", "'s", caption.lower())
    text = re.sub(r" +- +", "-", text).replace("tee-shirt", "t-shirt")
    for pattern, to in _JOINED_RE:
        text = pattern.sub(to, text)
    words = []
    for word in _WORD.findall(text):
        words += [word[:-2], "'s"] if word.endswith("'s") else [word]
    return words


@dataclass(frozen=True)
class Photo:
    """One photograph's file name and its raw captions."""

    file: str
    captions: tuple[str, ...]

    @cached_property
    def token_lists(self) -> list[list[str]]:
        return [tokens(c) for c in self.captions]

    @cached_property
    def said(self) -> Counter[str]:
        """In how many captions each word stands."""
        return Counter(word for words in self.token_lists for word in set(words))

    def mentions(self, words: Collection[str]) -> int:
        """In how many captions any of `words` stands."""
        return sum(not set(words).isdisjoint(t) for t in self.token_lists)


def read_captions(path: Path) -> list[Photo]:
    """Photographs of a `file<TAB>caption` table, in the order of their first line.

    Raises ValueError naming the line that has no tab.
    """
    by_file: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        file, tab, caption = line.partition("\t")
        if not tab:
            raise ValueError(f"{path.name}, line {number}: expected file<TAB>caption")
        by_file.setdefault(file, []).append(caption)
    return [Photo(file, tuple(captions)) for file, captions in by_file.items()]
