"""What every rule makes: a fact about a photograph, and how a fact becomes a LLaVA record.

A fact knows its answer and every wording of question and reply; balancing looks at facts, so that wording
cannot unbalance it again. Short replies ("Red.") and sentences ("The dog is red.") come about two to one.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

LONG_SHARE = 1 / 3


@dataclass(frozen=True)
class Fact:
    """`topic` is the question apart from its wording ("colour:dog"): answers are balanced within it.

    `accepted` are the answers that count as right, besides `answer` itself.
    """

    image: str
    kind: str
    topic: str
    answer: str
    questions: tuple[str, ...]
    short: str
    sentences: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


def seeded(seed: int, *key: str) -> random.Random:
    """A generator that depends on the seed and the key alone, not on what was drawn before."""
    return random.Random(zlib.crc32("|".join((str(seed), *key)).encode()))


def cap(facts: Iterable[Fact], seed: int, *, rank: int = 3) -> list[Fact]:
    """Within each topic no answer more often than the `rank`-th most frequent one of the topic.

    So with `rank` 3 no answer is over a third of its topic. A topic with one answer only is dropped, since
    its question would give the answer away; with two answers both are brought to the rarer's number.
    """
    topics: dict[str, dict[str, list[Fact]]] = defaultdict(lambda: defaultdict(list))
    for fact in facts:
        topics[fact.topic][fact.answer].append(fact)
    kept = []
    for topic, answers in topics.items():
        sizes = sorted((len(group) for group in answers.values()), reverse=True)
        if len(sizes) < 2:
            continue
        limit = sizes[min(rank, len(sizes)) - 1]
        for answer, group in answers.items():
            rng = seeded(seed, topic, answer)
            kept += rng.sample(group, limit) if len(group) > limit else group
    return kept


def sentence(text: str) -> str:
    """`text` with a capital first letter and a full stop."""
    return text[0].upper() + text[1:] + "."


def to_record(fact: Fact, seed: int, *, evaluation: bool = False) -> dict:
    """The LLaVA record of a fact, its wording drawn by seed, image, topic and answer.

    `topic` and the short `answer` are kept beside it; for evaluation the reply is the short one, too, and
    `accepted` lists the answers that count as right.
    """
    rng = seeded(seed, fact.image, fact.topic, fact.answer)
    question = rng.choice(fact.questions)
    long = fact.sentences and rng.random() < LONG_SHARE and not evaluation
    reply = rng.choice(fact.sentences) if long else fact.short
    stem = fact.image.rsplit(".", 1)[0]
    record = {
        "id": f"{fact.topic}-{stem}".replace(" ", "_"),
        "image": fact.image,
        "kind": fact.kind,
        "topic": fact.topic,
        "answer": fact.answer,
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": reply},
        ],
    }
    if evaluation:
        record["accepted"] = list(dict.fromkeys((fact.answer, *fact.accepted)))
    return record


def answer_counts(facts: Iterable[Fact]) -> dict[str, dict[str, dict[str, int]]]:
    """kind -> topic -> answer -> how many, most frequent first."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for fact in facts:
        counts[fact.kind][fact.topic][fact.answer] += 1
    return {
        kind: {topic: dict(answers.most_common()) for topic, answers in sorted(topics.items())}
        for kind, topics in sorted(counts.items())
    }
