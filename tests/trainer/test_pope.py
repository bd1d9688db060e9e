"""POPE: its questions from boxes, its reading of replies, and its scores against scikit-learn's."""

import json
import random

import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.pope import (
    PopeTask,
    build_pope,
    pope_scores,
    read_objects,
    read_pope,
    read_reply,
)

OBJECTS = {
    "a.jpg": ["person", "dog", "dog", "frisbee"],
    "b.jpg": ["person", "dog", "car"],
    "c.jpg": ["person", "car", "truck", "bus"],
    "d.jpg": ["umbrella", "person"],
    "e.jpg": ["cat", "sofa", "remote"],
}


def test_questions_from_boxes():
    questions = build_pope(OBJECTS, seed=3)
    assert questions == build_pope(OBJECTS, seed=3)
    assert {q.image for q in questions} == {"a.jpg", "b.jpg", "c.jpg", "e.jpg"}  # d.jpg shows two kinds only
    for setting in ("random", "popular", "adversarial"):
        some = [q for q in questions if q.setting == setting and q.image == "a.jpg"]
        assert [q.label for q in some].count("yes") == [q.label for q in some].count("no") == 3
        for question in some:
            name = question.text.split(" in the image")[0].split()[-1]
            assert (name in OBJECTS["a.jpg"]) == (question.label == "yes")
    popular = [q.text for q in questions if (q.setting, q.image, q.label) == ("popular", "e.jpg", "no")]
    assert popular[0] == "Is there a person in the image?"
    adversarial = [
        q.text for q in questions if (q.setting, q.image, q.label) == ("adversarial", "a.jpg", "no")
    ]
    assert adversarial[0] == "Is there a car in the image?"  # beside person twice and dog once
    assert any("an umbrella" in q.text for q in build_pope(OBJECTS, seed=1))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Yes.", "yes"),
        ("No, there is none.", "no"),
        ("There is no dog. Yes.", "no"),
        ("There is a dog. It is not big.", "yes"),
        ("A dog, not a cat", "no"),
        ("", "yes"),
    ],
)
def test_replies_are_read_as_popes_script_reads_them(reply, said):
    assert read_reply(reply) == said


def test_scores_are_those_of_scikit_learn():
    rng = random.Random(0)
    labels = [rng.choice(["yes", "no"]) for _ in range(200)]
    said = [label if rng.random() < 0.7 else rng.choice(["yes", "no"]) for label in labels]
    scores = pope_scores(labels, said)
    assert scores["accuracy"]["value"] == pytest.approx(accuracy_score(labels, said))
    for name, metric in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert scores[name]["value"] == pytest.approx(metric(labels, said, pos_label="yes"))
        assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"]
    assert scores["yes_ratio"]["value"] == said.count("yes") / 200
    assert pope_scores(["no"], ["no"])["f1"]["value"] == 0.0


def test_popes_own_files(tmp_path):
    path = tmp_path / "coco_pope_adversarial.json"
    path.write_text(
        '{"question_id": 1, "image": "x.jpg", "text": "Is there a dog in the image?", "label": "no"}\n'
    )
    (question,) = read_pope(path)
    assert (question.setting, question.label) == ("adversarial", "no")
    path.write_text('{"question": 1}\n')
    with pytest.raises(ValueError, match="coco_pope_adversarial"):
        read_pope(path)


@pytest.mark.parametrize("limit", [2, 50, 100, 101])
def test_a_limit_takes_as_many_yes_as_no_from_the_whole_file(limit, tmp_path):
    (tmp_path / "x.jpg").touch()
    lines = [
        {"image": "x.jpg", "text": f"Is there a {i}?", "label": "no" if i % 2 else "Yes"} for i in range(300)
    ]
    file = tmp_path / "pope_random.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    config = EvaluateConfig(pope=[file], images=[tmp_path], limit=limit, out=tmp_path / "o.json")
    questions = PopeTask(config).questions
    assert len(set(questions)) == limit
    assert sum(q.label == "yes" for q in questions) == -(-limit // 2)
    if limit > 2:
        assert {int(q.text[11:-1]) // 100 for q in questions} == {0, 1, 2}


def test_a_label_that_is_neither_yes_nor_no_is_said(tmp_path):
    file = tmp_path / "pope_random.jsonl"
    file.write_text('{"image": "x.jpg", "text": "Is there a dog?", "label": "maybe"}')
    with pytest.raises(ValueError, match=r"pope_random.jsonl, question 1: its label is 'maybe'"):
        read_pope(file)


def test_boxes_come_from_lines_or_from_cocos_instances(tmp_path):
    lines = tmp_path / "boxes.jsonl"
    records = [{"image": image, "objects": [{"name": n} for n in names]} for image, names in OBJECTS.items()]
    lines.write_text("\n".join(map(json.dumps, records)))
    kinds = sorted({name for names in OBJECTS.values() for name in names})
    instances = {
        "images": [{"id": 10 + i, "file_name": image} for i, image in enumerate(OBJECTS)],
        "categories": [{"id": 90 - i, "name": name} for i, name in enumerate(kinds)],
        "annotations": [
            {"image_id": 10 + i, "category_id": 90 - kinds.index(name), "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for i, names in enumerate(OBJECTS.values())
            for name in names
        ],
    }
    coco = tmp_path / "instances_val2014.json"
    coco.write_text(json.dumps(instances))
    assert (
        read_objects(coco) == read_objects(lines) == {image: list(names) for image, names in OBJECTS.items()}
    )
    coco.write_text(json.dumps(instances | {"categories": []}))
    with pytest.raises(ValueError, match=r"instances_val2014\.json is neither"):
        read_objects(coco)
