"""Questions of LLaVA records, scored by kind, and the plain-text questions that show what training kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from trainer.data.dialogues.retention import RETENTION_QUESTIONS
from trainer.evaluation.answering import Answerer
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.files import evenly, find_picture, read_records
from trainer.evaluation.grading import Guesser, Question, is_right, keywords_right, read_questions
from trainer.evaluation.journal import Item
from trainer.evaluation.metrics import accuracy


class QuestionTask:
    """Questions of LLaVA records beside guesses from the training answers alone."""

    name = "questions"

    def __init__(self, config: EvaluateConfig):
        found = [q for path in config.annotations for q in read_questions(read_records(path))]
        self.questions = evenly(found, config.limit)
        if not self.questions:
            raise ValueError(f"no questions in {', '.join(map(str, config.annotations))}")
        self.items: list[Item] = [
            (q.text, find_picture(q.image, config.images) if q.image else None) for q in self.questions
        ]
        self.training = [q for path in config.training for q in read_questions(read_records(path))]
        self.replies: dict[str, Sequence[str]] = {}

    def ask(self, answerers: dict[str, Answerer]) -> list[dict]:
        """Each question with every answerer's reply and whether it is right."""
        self.replies = {name: answerer(self.items) for name, answerer in answerers.items()}
        if self.training:
            guesser = Guesser(self.training)
            self.replies["prior"] = [guesser.prior(q) for q in self.questions]
            self.replies["majority"] = [guesser.majority(q) for q in self.questions]
        return [
            {"id": q.id, "image": q.image, "question": q.text, "accepted": q.accepted}
            | {
                name: {"reply": texts[i], "right": is_right(q, texts[i])}
                for name, texts in self.replies.items()
            }
            for i, q in enumerate(self.questions)
        ]

    def score(self) -> dict:
        """kind -> name -> accuracy."""
        return evaluate_questions(self.questions, self.replies)


class RetentionTask:
    """Plain-text questions, asked of the model and of its untuned base."""

    name = "retention"

    def __init__(self, base: Callable[[Sequence[Item]], list[str]]):
        self._base = base
        self.tuned: list[str] = []
        self.base: list[str] = []

    def ask(self, answerers: dict[str, Answerer]) -> list[dict]:
        """Each question with both replies."""
        items: list[Item] = [(question, None) for question, _ in RETENTION_QUESTIONS]
        self.tuned, self.base = answerers["model"](items), self._base(items)
        return [
            {"question": question, "base": base, "model": tuned}
            for (question, _), base, tuned in zip(items, self.base, self.tuned, strict=True)
        ]

    def score(self) -> dict:
        """Counts of right answers, of the base's, and of those kept."""
        return evaluate_retention(self.tuned, self.base)


def evaluate_questions(questions: Sequence[Question], replies: dict[str, Sequence[str]]) -> dict[str, dict]:
    """kind -> name of the answerer -> accuracy with its interval; `questions` counts each kind."""
    kinds: dict[str, dict] = {}
    for kind in dict.fromkeys(q.kind for q in questions):
        at = [i for i, q in enumerate(questions) if q.kind == kind]
        kinds[kind] = {"questions": len(at)}
        for name, texts in replies.items():
            kinds[kind][name] = asdict(accuracy([is_right(questions[i], texts[i]) for i in at]))
    return kinds


def evaluate_retention(tuned: Sequence[str], base: Sequence[str] | None) -> dict:
    """How many of the held-out text questions are right, and of those that the base model answers rightly."""
    right = [keywords_right(reply, keys) for reply, (_, keys) in zip(tuned, RETENTION_QUESTIONS, strict=True)]
    result: dict = {"questions": len(right), "right": sum(right)}
    if base is not None:
        known = [
            keywords_right(reply, keys) for reply, (_, keys) in zip(base, RETENTION_QUESTIONS, strict=True)
        ]
        kept = [r for r, k in zip(right, known, strict=True) if k]
        result |= {"base_right": sum(known), "kept": sum(kept)}
        result["lost"] = [
            q for (q, _), r, k in zip(RETENTION_QUESTIONS, right, known, strict=True) if k and not r
        ]
    return result
