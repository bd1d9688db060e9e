"""Which replies count as right answers, and the guesses that never saw a photograph."""

import pytest

from trainer.data.dialogues.retention import RETENTION_QUESTIONS
from trainer.evaluation.grading import Guesser, Question, is_right, keywords_right, read_questions
from trainer.evaluation.questions import evaluate_questions, evaluate_retention


def question(kind: str, answer: str, *accepted: str, topic: str = "topic") -> Question:
    return Question("1", kind, topic, "photo.jpg", "What?", answer, (answer, *accepted))


@pytest.mark.parametrize(
    ("asked", "reply", "right"),
    [
        (question("yesno", "yes"), "Yes.", True),
        (question("yesno", "yes"), "Yes, there is a dog.", True),
        (question("yesno", "yes"), "There is no dog.", False),
        (question("yesno", "no"), "Yes, there is no dog.", False),
        (question("yesno", "no"), "", False),
        (question("colour_yesno", "no"), "No, the dog is brown.", True),
        (question("colour", "black"), "The dog is black.", True),
        (question("colour", "black"), "Black and white.", False),
        (question("colour", "black and white"), "White and black.", True),
        (question("colour", "gray"), "Grey.", True),
        (question("colour", "brown", "tan"), "Tan.", True),
        (question("count", "two"), "There are 2 dogs.", True),
        (question("count", "two"), "Three.", False),
        (question("count", "8"), "There are 8 dogs.", True),
        (question("count", "eight"), "8", True),
        (question("yesno", "Yes"), "Yes.", True),
        (question("side", "left"), "On the left.", True),
        (question("side", "left"), "On the left or on the right.", False),
        (question("who", "man"), "There is a man in the photo.", True),
        (question("who", "man"), "A man and a woman.", False),
        (question("who", "no one"), "Nobody.", True),
        (question("object", "ball"), "The dog is carrying a ball.", True),
        (question("object", "ball", "balls"), "Balls.", True),
        (question("object", "ball"), "A football field.", False),
        (question("place", "on the beach", "beach"), "This photo was taken at the beach.", True),
        (question("activity", "running", "runs"), "It runs.", True),
    ],
)
def test_right_answers(asked, reply, right):
    assert is_right(asked, reply) is right


def test_keywords_are_whole_words():
    assert keywords_right("The capital of France is Paris.", ("paris",))
    assert keywords_right("J.K. Rowling wrote it.", ("rowling",))
    assert not keywords_right("Parisians live there.", ("paris",))
    assert not keywords_right("An autumn day.", ("au",))


def test_guesses_come_from_training_answers():
    training = [question("colour", "black", topic="dog")] * 3 + [question("colour", "red", topic="shirt")] * 2
    guesser = Guesser([*training, question("colour", "blue", topic="shirt")])
    assert guesser.prior(question("colour", "x", topic="shirt")) == "red"
    assert guesser.prior(question("colour", "x", topic="unseen")) == "black"
    assert guesser.majority(question("colour", "x", topic="shirt")) == "black"
    assert guesser.majority(question("unknown", "x")) == ""


def test_plain_llava_records_are_questions():
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    records = [{"id": 7, "image": "a.jpg", "conversations": turns}, {"kind": "caption"}]
    (asked,) = read_questions(records)
    assert (asked.text, asked.image, asked.kind) == ("What is it?", "a.jpg", "other")
    assert is_right(asked, "It is a cat.")
    turns = [{"from": "user", "value": "What is it?\n<image>"}, {"from": "assistant", "value": "A cat."}]
    assert read_questions([{"image": "a.jpg", "conversations": turns}])[0].text == "What is it?"
    with pytest.raises(ValueError, match="record 8"):
        read_questions([{"id": 8, "conversations": []}])


def test_accuracy_by_kind():
    questions = [question("side", "left"), question("side", "right"), question("count", "two")]
    results = evaluate_questions(
        questions, {"model": ["Left.", "Left.", "Two."], "prior": ["left", "left", "one"]}
    )
    assert results["side"]["questions"] == 2
    assert results["side"]["model"]["value"] == results["side"]["prior"]["value"] == 0.5
    assert (results["count"]["model"]["value"], results["count"]["prior"]["value"]) == (1, 0)


def test_retention_counts_what_the_base_knew():
    known = [keys[0] for _, keys in RETENTION_QUESTIONS]
    base = [*known[:30], *[""] * 30]
    tuned = [*known[:28], "", "", *known[30:40], *[""] * 20]
    result = evaluate_retention(tuned, base)
    assert (result["right"], result["base_right"], result["kept"]) == (38, 30, 28)
    assert result["lost"] == [RETENTION_QUESTIONS[28][0], RETENTION_QUESTIONS[29][0]]
