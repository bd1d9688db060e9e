"""VQA accuracy by the official rules, and the readers of VQAv2, TextVQA and GQA."""

import json

import pytest

from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.vqa import (
    VqaTask,
    normalize_answer,
    read_gqa,
    read_textvqa,
    read_vqa,
    textvqa_accuracy,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("reply", "normal"),
    [
        ("The dog.", "dog"),
        ("Two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("oclock", "o'clock"),
        ("wed", "wed"),  # a word of its own: the script has no entry for it
        ("it's", "it's"),
        ("red/white", "red white"),  # inside a word: a space
        ("red, white", "red white"),  # at its edge: nothing
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("a\nman\tand an apple", "man and apple"),
        ("t-shirt", "t shirt"),
        ("7:30", "7:30"),
    ],
)
def test_answers_are_normalised_as_the_official_script_does(reply, normal):
    assert normalize_answer(reply) == normal


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_accuracy_averages_over_leaving_one_person_out(matches, accuracy):
    answers = ["dog"] * matches + [f"cat{i}" for i in range(10 - matches)]
    assert vqa_accuracy("A dog.", answers) == pytest.approx(accuracy)


def test_unanimous_answers_are_compared_as_they_are():
    """The script strips people's punctuation only where they disagree."""
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 10) == 0.0
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1.0


@pytest.mark.parametrize(
    ("reply", "answer", "accuracy"),
    [
        ("The Nokia.", "nokia", 1.0),
        ("1,000", "1000", 1.0),
        ("stopgo", "stop,go", 1.0),  # a comma is nothing here, a space in VQA's script
        ("stop go", "stop,go", 0.0),
        ("mcdonald 's", "McDonald's", 1.0),  # its tokens are compared
        ("thats", "that's", 0.0),
    ],
)
def test_textvqa_has_a_normaliser_of_its_own(reply, answer, accuracy):
    assert textvqa_accuracy(reply, [answer] * 10) == accuracy


def test_files_of_the_three_data_sets(tmp_path):
    people = [{"answer": a, "answer_id": i} for i, a in enumerate(["red"] * 8 + ["pink", "dark red"])]
    questions = {
        "data_subtype": "val2014",
        "questions": [{"question_id": 420, "image_id": 42, "question": "What colour?"}],
    }
    annotations = {"annotations": [{"question_id": 420, "answer_type": "other", "answers": people}]}
    (tmp_path / "q.json").write_text(json.dumps(questions))
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    (vqa,) = read_vqa(tmp_path / "q.json", tmp_path / "a.json")
    assert (vqa.image, vqa.kind) == ("COCO_val2014_000000000042.jpg", "other")
    assert vqa.accuracy("Red.") == 1.0 and vqa.accuracy("pink") == pytest.approx(0.3)

    text = {
        "data": [{"question_id": 1, "image_id": "f00", "question": "Brand?", "answers": ["The Nokia"] * 10}]
    }
    (tmp_path / "t.json").write_text(json.dumps(text))
    (textvqa,) = read_textvqa(tmp_path / "t.json")
    assert textvqa.image == "f00.jpg" and textvqa.accuracy("nokia") == 1.0

    gqa = {
        "07": {
            "imageId": "n1",
            "question": "Is it on the left?",
            "answer": "yes",
            "types": {"structural": "verify"},
        }
    }
    (tmp_path / "g.json").write_text(json.dumps(gqa))
    (one,) = read_gqa(tmp_path / "g.json")
    assert (one.id, one.image, one.kind) == ("07", "n1.jpg", "verify")
    assert one.accuracy("Yes.") == 1.0 and one.accuracy("yes it is") == 0.0

    (tmp_path / "n1.jpg").touch()
    config = EvaluateConfig(
        gqa=tmp_path / "g.json", images=[tmp_path], out=tmp_path / "o.json", checkpoint="x"
    )
    task = VqaTask("gqa", [one], config)
    assert task.items[0][0] == "Is it on the left?\nAnswer the question using a single word or phrase."
    answers = task.ask({"model": lambda items: ["yes"] * len(items)})
    assert answers[0]["model"] == {"reply": "yes", "accuracy": 1.0}
    assert task.score()["model"]["accuracy"]["value"] == 1.0

    for read in (read_gqa, read_textvqa):
        with pytest.raises(ValueError, match=r"q\.json"):
            read(tmp_path / "q.json")
    with pytest.raises(ValueError, match="not VQAv2"):
        read_vqa(tmp_path / "q.json", tmp_path / "e.json") if (tmp_path / "e.json").write_text(
            '{"annotations": []}'
        ) else None
