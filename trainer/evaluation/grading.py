"""Is a short answer right? And what would one guess who never saw the photograph?

Answers of closed kinds (yes/no, colours, numbers, sides, who) are right when the words of that kind they name
are just those of an accepted answer; others when their beginning contains an accepted answer. The guesses are
the most frequent training answer for the same question, and for the same kind of question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.data.records import IMAGE_MARK, ROLES

_NUMBERS = {
    "0": "zero",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "10": "ten",
}
_SAME = {
    "grey": "gray",
    "nobody": "no-one",
    "noone": "no-one",
    "ladies": "women",
    "lady": "woman",
    "guy": "man",
    "golden": "brown",
    "inside": "indoors",
    "outside": "outdoors",
} | _NUMBERS
_VOCABULARY: dict[str, frozenset[str]] = {
    kind: frozenset(words.split())
    for kind, words in {
        "colour": "black white brown red blue yellow green orange pink purple gray tan",
        "count": "zero one two three four five six seven eight nine ten many no",
        "side": "left right",
        "who": "man woman boy girl baby men women boys girls children child person people dog no-one couple",
    }.items()
}
_OPENING = 14  # words of an answer that are looked at where any words may be accepted


@dataclass(frozen=True)
class Question:
    """One evaluation question; `topic` is the question apart from its wording, `image` None for plain text."""

    id: str
    kind: str
    topic: str
    image: str | None
    text: str
    answer: str
    accepted: tuple[str, ...]


def read_questions(records: Iterable[dict]) -> list[Question]:
    """Questions from LLaVA records: the first question, and `accepted` or else the first answer.

    Speakers are "human" and "gpt", or "user" and "assistant". Captions (kind "caption") are scored elsewhere
    and left out. Raises ValueError naming a record without a question and an answer.
    """
    questions = []
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"record {number} is not an object")
        name, kind = str(record.get("id", number)), record.get("kind", "other")
        if kind == "caption":
            continue
        try:
            turns = record["conversations"]
            text = next(t["value"] for t in turns if ROLES.get(t["from"]) == "user")
            reply = next(t["value"] for t in turns if ROLES.get(t["from"]) == "assistant")
        except (KeyError, TypeError, StopIteration) as error:
            raise ValueError(f"record {name} has no question and answer") from error
        text = text.replace(IMAGE_MARK, "").strip()
        answer = record.get("answer", reply)
        accepted = tuple(record.get("accepted", (reply,)))
        topic = record.get("topic", f"{kind}:{text}")
        questions.append(Question(name, kind, topic, record.get("image"), text, answer, accepted))
    return questions


def normalize(text: str) -> list[str]:
    """Lower-case words without articles and punctuation; digits as words, one spelling for each colour."""
    text = re.sub(r"\b(no one|nobody|no people|no person)\b", "no-one", text.lower().replace("'s", ""))
    words = re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", text)
    return [_SAME.get(w, w) for w in words if w not in ("a", "an", "the")]


def contains(words: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether `phrase` stands in `words`, a final plural s aside."""
    stems, wanted = [w.rstrip("s") for w in words], [w.rstrip("s") for w in phrase]
    return bool(wanted) and any(
        stems[i : i + len(wanted)] == wanted for i in range(len(stems) - len(wanted) + 1)
    )


def is_right(question: Question, reply: str) -> bool:
    """Whether `reply` answers the question."""
    words = normalize(reply)
    if not words:
        return False
    if question.kind.endswith("yesno"):
        return words[:1] == normalize(question.answer)[:1]
    vocabulary = _VOCABULARY.get(question.kind)
    if vocabulary is None:
        return any(contains(words[:_OPENING], normalize(a)) for a in question.accepted)
    named = {w for w in words if w in vocabulary}
    return any(named == {w for w in normalize(a) if w in vocabulary} for a in question.accepted) and bool(
        named
    )


def keywords_right(reply: str, keywords: Sequence[str]) -> bool:
    """Whether any keyword stands in a plain-text reply as whole words, whatever its case."""
    return any(re.search(rf"(?<!\w){re.escape(k.lower())}(?!\w)", reply.lower()) for k in keywords)


class Guesser:
    """Answers from the training answers alone: the most frequent one of the topic, or of the kind."""

    def __init__(self, training: Sequence[Question]):
        topics: dict[str, Counter[str]] = defaultdict(Counter)
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        for question in training:
            answer = _short(question)
            topics[question.topic][answer] += 1
            kinds[question.kind][answer] += 1
        self._topics = {topic: _most_frequent(answers) for topic, answers in topics.items()}
        self._kinds = {kind: _most_frequent(answers) for kind, answers in kinds.items()}

    def prior(self, question: Question) -> str:
        """The most frequent training answer to this question, of its kind where the question is new."""
        return self._topics.get(question.topic) or self.majority(question)

    def majority(self, question: Question) -> str:
        """The most frequent training answer of this kind; empty for an unknown kind."""
        return self._kinds.get(question.kind, "")


def _short(question: Question) -> str:
    words = normalize(question.answer)
    return words[0] if question.kind.endswith("yesno") and words else " ".join(words)


def _most_frequent(answers: Counter[str]) -> str:
    return min(answers, key=lambda a: (-answers[a], a))
