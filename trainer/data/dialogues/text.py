"""Plain-text dialogues answered by the base model itself.

Fine-tuning on photographs alone makes a small model describe a photograph whatever it is asked. Its own
greedy answers to ordinary prompts, mixed into stage 2, hold it where it was (the idea of rehearsal with
self-generated data: Huang et al. 2024, "Mitigating Catastrophic Forgetting ... Self-Synthesized Rehearsal").
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .text_prompts import prompts

Answer = Callable[[list[str]], list[str]]

MAX_NEW_TOKENS = 64
BATCH_SIZE = 32

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")
_LIST_NUMBER = re.compile(r"(^|\s)\d+\.$")


def whole_sentences(text: str, *, finished: bool) -> str:
    """`text` up to its last full sentence; all of it when the model `finished` it itself.

    Empty when there is no full sentence. The full stop of a list number ("2.") ends no sentence.
    """
    text = text.strip()
    if finished:
        return text
    ends = [m.end() for m in _SENTENCE_END.finditer(text) if not _LIST_NUMBER.search(text[: m.end()])]
    return text[: ends[-1]].rstrip() if ends else ""


def base_model(preset: str) -> Answer:
    """The preset's language model as it is before training, answering greedily, `BATCH_SIZE` prompts at a time.

    An answer that ran into `MAX_NEW_TOKENS` is cut to whole sentences.
    """
    from shared.checkpoint import build_model
    from shared.config import load_preset
    from shared.prompt import Message, question_content

    model = build_model(load_preset(preset)).eval()

    def answer(questions: list[str]) -> list[str]:
        replies = [""] * len(questions)
        order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            dialogues = [([Message("user", question_content(questions[i]))], None) for i in batch]
            for i, reply in zip(batch, model.answer(dialogues, MAX_NEW_TOKENS), strict=True):
                length = len(model.tokenizer(reply, add_special_tokens=False).input_ids)
                replies[i] = whole_sentences(reply, finished=length < MAX_NEW_TOKENS - 1)
        return replies

    return answer


def text_records(answer: Answer) -> list[dict]:
    """One LLaVA record, kind "text" and without an image, for every prompt that got a whole answer.

    `answer` maps a list of prompts to the base model's answers, in order, already cut by
    `whole_sentences`; an empty answer drops its prompt.
    """
    questions = prompts()
    records = []
    for i, (question, reply) in enumerate(zip(questions, answer(questions), strict=True)):
        if reply:
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
            records.append({"id": f"text-{i:04d}", "kind": "text", "conversations": turns})
    return records
