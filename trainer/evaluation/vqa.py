"""VQAv2, TextVQA and GQA: reading their files and scoring answers by their own rules.

The normaliser follows the rules of VQA's official script (vqaEval.py of github.com/GT-Vision-Lab/VQA; Antol et
al. 2015, Goyal et al. 2017): punctuation, number words, articles, contractions. An answer's accuracy is
min(1, matches among nine people / 3), averaged over leaving out each of the ten. TextVQA (Singh et al. 2019)
takes the same accuracy and its own normaliser (EvalAIAnswerProcessor of github.com/facebookresearch/mmf); GQA (Hudson
and Manning 2019) has one answer per question.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.evaluation.answering import Answerer
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.files import evenly, find_picture
from trainer.evaluation.journal import Item
from trainer.evaluation.metrics import mean_interval

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_ARTICLES = frozenset(("a", "an", "the"))
_WITH_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've
    you'll you're you've
"""
# Each is recognised with any one of its apostrophes missing; the script's one entry the other way round is kept
_CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


def strip_punctuation(text: str) -> str:
    """Punctuation away: replaced by a space inside a word, by nothing at its edge or in numbers as 1,000."""
    stripped = text
    number = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        at_edge = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if at_edge or number else " ")
    return re.sub(r"\.(?!\d)", "", stripped)


def normalize_words(text: str) -> str:
    """Lower case, number words as digits, without articles, contractions with their apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalize_answer(text: str) -> str:
    """A reply as the official script compares it."""
    return normalize_words(strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def vqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """Accuracy, 0 to 1, of a reply beside people's answers (ten in the data sets)."""
    given = [strip_punctuation(a) for a in answers] if len(set(answers)) > 1 else list(answers)
    return _leaving_one_out(normalize_answer(reply), given)


def textvqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """Accuracy, 0 to 1; people's answers are normalised like the reply."""
    return _leaving_one_out(_normalize_textvqa(reply), [_normalize_textvqa(answer) for answer in answers])


def gqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """1 where the reply is the one answer, else 0."""
    [answer] = answers
    return float(normalize_answer(reply) == normalize_answer(answer))


def _normalize_textvqa(text: str) -> str:
    return normalize_answer(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def _leaving_one_out(said: str, given: Sequence[str]) -> float:
    if not given:
        raise ValueError("a question without answers cannot be scored")
    matches = sum(answer == said for answer in given)
    return sum(min(1.0, (matches - (answer == said)) / 3) for answer in given) / len(given)


@dataclass(frozen=True)
class VqaQuestion:
    """`answers` are people's (VQAv2, TextVQA) or one (GQA), scored by `rule`; `kind` groups the scores."""

    id: str
    image: str
    text: str
    answers: tuple[str, ...]
    kind: str
    rule: Callable[[str, Sequence[str]], float]

    def accuracy(self, reply: str) -> float:
        """0 to 1."""
        return self.rule(reply, self.answers)


def read_vqa(questions: Path, annotations: Path) -> list[VqaQuestion]:
    """VQAv2: OpenEnded questions and their annotations; images are COCO_val2014_000000000042.jpg.

    Raises ValueError where a file is not of that form.
    """
    asked, answered = _load(questions, "questions"), _load(annotations, "annotations")
    split = json.loads(questions.read_bytes()).get("data_subtype", "val2014")
    try:
        by_id = {item["question_id"]: item for item in answered}
        return [
            VqaQuestion(
                str(item["question_id"]),
                f"COCO_{split}_{item['image_id']:012d}.jpg",
                item["question"],
                tuple(answer["answer"] for answer in by_id[item["question_id"]]["answers"]),
                by_id[item["question_id"]].get("answer_type", "all"),
                vqa_accuracy,
            )
            for item in asked
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{questions} and {annotations} are not VQAv2's files: {error}") from error


def read_textvqa(path: Path) -> list[VqaQuestion]:
    """TextVQA 0.5.1; images are IMAGE_ID.jpg.

    Raises ValueError where the file is not of that form.
    """
    try:
        return [
            VqaQuestion(
                str(item["question_id"]),
                f"{item['image_id']}.jpg",
                item["question"],
                tuple(item["answers"]),
                "all",
                textvqa_accuracy,
            )
            for item in _load(path, "data")
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not TextVQA's file: {error}") from error


def read_gqa(path: Path) -> list[VqaQuestion]:
    """GQA's questions by id; images are IMAGEID.jpg.

    Raises ValueError where the file is not of that form.
    """
    try:
        return [
            VqaQuestion(
                name,
                f"{item['imageId']}.jpg",
                item["question"],
                (item["answer"],),
                item.get("types", {}).get("structural", "all"),
                gqa_accuracy,
            )
            for name, item in _load(path).items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not GQA's questions file: {error}") from error


def _load(path: Path, key: str | None = None):
    try:
        content = json.loads(path.read_bytes())
        return content if key is None else content[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not JSON with {key or 'questions'}: {error}") from error


class VqaTask:
    """Open questions with short answers."""

    def __init__(self, name: str, questions: list[VqaQuestion], config: EvaluateConfig):
        self.name = name
        self.questions = evenly(questions, config.limit)
        if not self.questions:
            raise ValueError(f"{name}: no questions")
        ending = f"\n{config.instruction}" if config.instruction else ""
        self.items: list[Item] = [
            (q.text + ending, find_picture(q.image, config.images)) for q in self.questions
        ]
        self.replies: dict[str, list[str]] = {}

    def ask(self, answerers: dict[str, Answerer]) -> list[dict]:
        """Each question with every reply and its accuracy."""
        self.replies = {name: answerer(self.items) for name, answerer in answerers.items()}
        return [
            {"id": q.id, "image": q.image, "question": q.text, "answers": q.answers}
            | {n: {"reply": r[i], "accuracy": q.accuracy(r[i])} for n, r in self.replies.items()}
            for i, q in enumerate(self.questions)
        ]

    def score(self) -> dict:
        """`questions`, and for every answerer the accuracy with its interval, also by kind."""
        result: dict = {"questions": len(self.questions)}
        for name, texts in self.replies.items():
            values = [q.accuracy(text) for q, text in zip(self.questions, texts, strict=True)]
            kinds: dict[str, list[float]] = defaultdict(list)
            for question, value in zip(self.questions, values, strict=True):
                kinds[question.kind].append(value)
            result[name] = {
                "accuracy": asdict(mean_interval(values)),
                "by_kind": {kind: sum(some) / len(some) for kind, some in sorted(kinds.items())},
            }
        return result
