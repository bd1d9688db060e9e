"""Questions with a list of answers (`choices.toml`): what animal, what sport, what is ridden, held, worn, where.

Each has its answers with the words that say them. Two captions must say the answer; a
photograph whose captions say two of the answers is skipped, unless one is said by two more captions than the
other. Questions about something someone does ("What is the dog carrying?") look for the thing just behind the
verb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .captions import Photo
from .facts import Fact, sentence
from .lexicon import bare, read_table, word_set


@dataclass(frozen=True)
class Choice:
    """A question with a closed list of answers: phrase ("a ball") -> the words that say it.

    With `verbs` the word must stand at most `reach` words behind one of them. `subject` words must be said
    by two captions, `never` words by none; `votes` captions must say the answer.
    """

    topic: str
    kind: str
    questions: tuple[str, ...]
    sentence: str
    answers: dict[str, frozenset[str]]
    verbs: frozenset[str] = frozenset()
    reach: int = 6
    subject: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    votes: int = 2


def _choice(entry: dict) -> Choice:
    sets = {key: word_set(entry[key]) for key in ("verbs", "subject", "never") if key in entry}
    plain = {key: entry[key] for key in ("topic", "kind", "sentence", "reach", "votes") if key in entry}
    answers = {phrase: word_set(words) for phrase, words in entry["answers"].items()}
    plain.setdefault("kind", "object")
    return Choice(questions=tuple(entry["questions"]), answers=answers, **plain, **sets)


CHOICES: tuple[Choice, ...] = tuple(_choice(entry) for entry in read_table("choices.toml")["choice"])


def _said(words: list[str], options: frozenset[str], verbs: frozenset[str], reach: int) -> bool:
    """Whether any option is in the caption, close behind one of the verbs if there are any."""
    if not verbs:
        return not options.isdisjoint(words)
    return any(
        word in options and not verbs.isdisjoint(words[max(0, at - reach) : at])
        for at, word in enumerate(words)
    )


def choice_facts(photos: Sequence[Photo], choices: Sequence[Choice] = CHOICES) -> list[Fact]:
    """Every answer that the captions of a photograph agree on (before balancing)."""
    facts = []
    for photo in photos:
        for choice in choices:
            if photo.mentions(choice.never) or (choice.subject and photo.mentions(choice.subject) < 2):
                continue
            votes: Counter[str] = Counter()
            for answer, words in choice.answers.items():
                votes[answer] = sum(_said(t, words, choice.verbs, choice.reach) for t in photo.token_lists)
            (best, first), (_, second) = votes.most_common(2)
            if first >= choice.votes and (second == 0 or first - second >= 2):
                others = tuple(a for a, n in votes.items() if n and a != best)
                facts.append(choice_fact(photo.file, choice, best, others))
    return facts


def choice_fact(image: str, choice: Choice, phrase: str, others: tuple[str, ...]) -> Fact:
    """The fact that `phrase` answers the question; the words that say it are accepted too."""
    accepted = sorted(choice.answers.get(phrase, ()))
    for other in others:
        accepted += sorted(choice.answers[other])
    long = (choice.sentence.format(phrase),) if choice.sentence else ()
    return Fact(
        image,
        choice.kind,
        f"{choice.kind}:{choice.topic}",
        bare(phrase),
        choice.questions,
        sentence(phrase),
        long,
        tuple(accepted),
    )
