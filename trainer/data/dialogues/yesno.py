"""Questions such as "Is there a dog in the photo?", from captions, with as many yes as no for every noun.

Yes: at least two captions say it. No: no caption says it or anything that could bring it along; a third of
these come from photographs of the same sort of scene (sharing words with the noun's own photographs), so
that the scene alone does not give the answer away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .captions import Photo
from .facts import Fact, seeded
from .lexicon import YESNO_NOUNS, Noun

HARD_SHARE = 1 / 3
QUESTIONS = (
    "Is there {phrase} in the photo?",
    "Is there {phrase} in this picture?",
    "Can you see {phrase} in the image?",
    "Do you see {phrase}?",
    "Does the picture show {phrase}?",
)


def yesno_fact(image: str, noun: Noun, present: bool) -> Fact:
    """The yes/no fact about `noun` in `image`."""
    questions = tuple(q.format(phrase=noun.phrase) for q in QUESTIONS)
    if present:
        sentences = (f"Yes, there is {noun.phrase}.", f"Yes, the photo shows {noun.phrase}.")
    else:
        sentences = (f"No, there is no {noun.name}.", f"No, I cannot see {noun.phrase}.")
    answer = "yes" if present else "no"
    return Fact(image, "yesno", f"yesno:{noun.name}", answer, questions, f"{answer.capitalize()}.", sentences)


def _scene_words(positives: Sequence[Photo], everyone: Counter[str], total: int) -> set[str]:
    """The 25 words most typical of photographs that show the noun (by share there over share everywhere)."""
    said = Counter(word for photo in positives for word in photo.said)
    least = max(3, len(positives) // 20)
    lift = {w: (n / len(positives)) / (everyone[w] / total) for w, n in said.items() if n >= least}
    return set(sorted(lift, key=lambda w: (-lift[w], w))[:25])


def yesno_facts(photos: Sequence[Photo], seed: int, *, per_answer: int = 240) -> list[Fact]:
    """At most `per_answer` yes and exactly as many no for each noun of the lexicon."""
    everyone = Counter(word for photo in photos for word in photo.said)
    facts = []
    for noun in YESNO_NOUNS:
        rng = seeded(seed, "yesno", noun.name)
        yes = [p for p in photos if p.mentions(noun.words) >= 2]
        no = [p for p in photos if not p.mentions(noun.words | noun.doubt)]
        size = min(per_answer, len(yes), len(no))
        if size == 0:
            continue
        scene = _scene_words(yes, everyone, len(photos))
        hard = [p for p in no if sum(w in scene for w in p.said) >= 1]
        chosen = rng.sample(hard, min(len(hard), round(size * HARD_SHARE)))
        taken = {p.file for p in chosen}
        chosen += rng.sample([p for p in no if p.file not in taken], size - len(chosen))
        facts += [yesno_fact(p.file, noun, True) for p in rng.sample(yes, size)]
        facts += [yesno_fact(p.file, noun, False) for p in chosen]
    return facts
