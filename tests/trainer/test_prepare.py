"""`prepare`: planted faults are found and named, counts add up, the split keeps photographs apart."""

import json

import pytest
from PIL import Image

from trainer.cli import main
from trainer.data.records import RecordError, clean_text, parse_record, read_annotations


def record(identifier, image="a.jpg", question="<image>\nWhat is it?", answer="A dog.", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": identifier, **({"image": image} if image else {}), "conversations": turns} | more


FAULTS = {
    "not an object": "text",
    "no conversations": {"id": "x", "image": "a.jpg"},
    "a turn without a text value": record("x") | {"conversations": [{"from": "human"}]},
    "a turn from 'robot'": record("x") | {"conversations": [{"from": "robot", "value": "hi"}]},
    "turns do not alternate, question first": record("x")
    | {"conversations": [{"from": "gpt", "value": "hi"}]},
    "no answer": record("x") | {"conversations": [{"from": "human", "value": "hi"}]},
    "empty answer": record("x", answer=" \u200b "),
    "empty question": record("x", image=None, question=" "),
    "<image> without an image": record("x", image=None),
    "more than one <image> for one image": record("x", question="<image><image> What?"),
    "<image> in an answer": record("x", answer="A <image>."),
    "image is not a file name": record("x") | {"image": 3},
    "image not found": record("x", image="nowhere.jpg"),
    "the image's path leaves its folder": record("x", image="../secret.jpg"),
    "an answer over 4000 characters": record("x", answer="dog " * 2000),
    "duplicate": record("copy"),
}


@pytest.fixture
def source(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(20):
        Image.new("RGB", (60 + index, 40), (index * 10, 90, 30)).save(images / f"{index}.png")
    Image.new("RGB", (64, 64), "red").save(images / "a.jpg")
    whole = (images / "a.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "text.jpg").write_text("no picture at all")
    return tmp_path


def test_faults_are_named_and_the_counts_add_up(source, capsys):
    good = [record("first")] + [record(f"g{index}", image=f"{index}.png") for index in range(20)]
    good += [record("text", image=None, question="Hello?", answer="Hi.")]
    broken = [record("cut", image="cut.jpg"), record("words", image="text.jpg")]
    annotations = source / "all.json"
    annotations.write_text(json.dumps([*good, *FAULTS.values(), *broken]))
    out = source / "out"
    args = [
        "prepare",
        "--annotations",
        annotations,
        "--images",
        source / "images",
        "--out",
        out,
        "--validation",
        "0.2",
    ]
    assert main([str(arg) for arg in args]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["read"] == len(good) + len(FAULTS) + len(broken) == report["kept"] + report["dropped"]
    assert report["kept"] == len(good) == report["train"] + report["val"]
    reasons = report["dropped_by_reason"]
    assert set(FAULTS) <= set(reasons)
    assert sum(entry["count"] for reason, entry in reasons.items() if reason not in FAULTS) == len(broken)
    assert "cut: cut.jpg" in str(reasons) and "words: text.jpg" in str(reasons)
    printed = capsys.readouterr().out
    assert all(reason in printed for reason in reasons)

    images = {
        name: {json.loads(line).get("image") for line in (out / f"{name}.jsonl").open()}
        for name in ("train", "val")
    }
    assert not (images["train"] & images["val"]) - {None}
    for name in images["train"] | images["val"]:
        if name:
            with Image.open(out / "images" / name) as stored:
                assert stored.size == (224, 224) and stored.format == "JPEG"


def test_the_split_is_a_function_of_the_seed(source):
    annotations = source / "all.jsonl"
    annotations.write_text("\n".join(json.dumps(record(f"g{i}", image=f"{i}.png")) for i in range(20)))
    splits = []
    for name, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        args = [
            "prepare",
            "--annotations",
            annotations,
            "--images",
            source / "images",
            "--out",
            source / name,
        ]
        assert main([str(arg) for arg in [*args, "--seed", seed, "--validation", "0.3"]]) == 0
        splits.append((source / name / "val.jsonl").read_text())
    assert splits[0] == splits[1] != splits[2]


def test_nothing_usable_exits_2_and_says_why(source, capsys):
    annotations = source / "bad.json"
    annotations.write_text(json.dumps([record("x", image="nowhere.jpg")]))
    args = ["prepare", "--annotations", annotations, "--images", source / "images", "--out", source / "out"]
    assert main([str(arg) for arg in args]) == 2
    assert "image not found" in capsys.readouterr().err


def test_a_broken_file_is_named_with_its_line(source):
    path = source / "broken.jsonl"
    path.write_text(json.dumps(record("x")) + "\n{oops\n")
    with pytest.raises(ValueError, match="line 2"):
        list(read_annotations(path))


def test_the_image_goes_first_wherever_its_mark_stands_and_is_added_where_missing():
    for question in ("<image>\nWhat?", "What?\n<image>", "What?"):
        message = parse_record(record("x", question=question)).messages[0]
        assert message.num_images == 1 and message.content[-1] == "What?" and len(message.content) == 2


def test_multi_turn_dialogues_stay_whole_and_a_last_question_without_answer_goes():
    raw = record("x")
    raw["conversations"] += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "B."}]
    raw["conversations"] += [{"from": "human", "value": "Then?"}]
    assert [message.role for message in parse_record(raw).messages] == ["user", "assistant"] * 2


def test_text_is_cleaned():
    assert clean_text("  a&amp;b \u0000 caf\u0065\u0301 \r\n\r\n\r\n\r\n x\ty ") == "a&b café\n\nx y"
    with pytest.raises(RecordError, match="no conversations"):
        parse_record({"conversations": []})
