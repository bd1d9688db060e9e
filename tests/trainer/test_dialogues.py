"""The dialogue generator as a person runs it, on a few hundred real photographs."""

import json
from collections import Counter
from pathlib import Path

import pytest

from trainer.data.dialogues.generate import HELD_OUT, main


def run(data_dir: Path, captions: Path, out: Path, split: str, seed: int = 0) -> int:
    coco = data_dir / "coco128"
    arguments = {
        "captions": captions,
        "images": data_dir / "flickr8k" / "images",
        "boxes": coco / "objects.jsonl",
        "box-images": coco / "images",
        "split": split,
        "out": out,
        "seed": seed,
        "mosaics": 40,
        "crops": 1,
    }
    return main([text for name, value in arguments.items() for text in (f"--{name}", str(value))])


@pytest.fixture(scope="module")
def made(data_dir, tmp_path_factory) -> dict[str, Path]:
    """Train and eval dialogues of the first 200 training and 100 dev photographs."""
    folder = tmp_path_factory.mktemp("dialogues")
    for split, name, photos in (("train", "captions_train.tsv", 200), ("eval", "captions_dev.tsv", 100)):
        lines = (data_dir / "flickr8k" / name).read_text(encoding="utf-8").splitlines()[: photos * 5]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert run(data_dir, folder / f"{split}.tsv", folder / split, split) == 0
    return {"folder": folder, "train": folder / "train", "eval": folder / "eval"}


def records(folder: Path) -> list[dict]:
    return json.loads((folder / "records.json").read_text(encoding="utf-8"))


def test_records_are_llava_records_with_pictures(made, data_dir):
    photos = {p.name for p in (data_dir / "flickr8k" / "images").iterdir()}
    for split in ("train", "eval"):
        views = {p.name for p in (made[split] / "images").iterdir()}
        found = records(made[split])
        assert len({r["id"] for r in found}) == len(found)
        for record in found:
            human, gpt = record["conversations"]
            assert human["from"] == "human"
            assert human["value"].startswith("<image>\n")
            assert gpt["from"] == "gpt"
            assert gpt["value"].endswith(".")
            assert record["image"] in photos | views


def test_captions_of_a_photograph_share_their_request(made):
    requests: dict[str, set[str]] = {}
    for record in records(made["train"]):
        if record["kind"] == "caption":
            requests.setdefault(record["image"], set()).add(record["conversations"][0]["value"])
    assert len(requests) == 200
    assert all(len(asked) == 1 for asked in requests.values())
    first = sum(asked == {"<image>\nDescribe this image in one sentence."} for asked in requests.values())
    assert first >= 100


@pytest.mark.parametrize("split", ["train", "eval"])
def test_yes_and_no_are_balanced_for_every_word(made, split):
    answers = Counter((r["topic"], r["answer"]) for r in records(made[split]) if r["kind"] == "yesno")
    total = Counter(answer for (_, answer), number in answers.items() for _ in range(number))
    assert total["yes"] == total["no"] > 0
    if split == "train":
        assert all(answers[topic, "yes"] == answers[topic, "no"] for topic, _ in answers)


def test_sides_are_balanced(made):
    sides = Counter((r["topic"], r["answer"]) for r in records(made["train"]) if r["kind"] == "side")
    assert sides
    assert all(sides[topic, "left"] == sides[topic, "right"] for topic, _ in sides)


def test_held_out_photographs_never_reach_training(made):
    held_out = json.loads((made["train"] / "held_out.json").read_text())
    assert len(held_out) == HELD_OUT
    assert held_out == json.loads((made["eval"] / "held_out.json").read_text())
    stems = {Path(name).stem for name in held_out}
    shown = {r["image"] for r in records(made["train"])} | {
        p.name for p in (made["train"] / "images").iterdir()
    }
    assert not [name for name in shown if any(stem in name for stem in stems)]
    asked = {r["image"] for r in records(made["eval"])}
    assert any(stem in name for stem in stems for name in asked)
    assert not {r["image"] for r in records(made["train"])} & asked


def test_same_seed_same_files(made, data_dir):
    again = made["folder"] / "again"
    assert run(data_dir, made["folder"] / "eval.tsv", again, "eval") == 0
    assert (again / "records.json").read_bytes() == (made["eval"] / "records.json").read_bytes()
    other = made["folder"] / "other"
    assert run(data_dir, made["folder"] / "eval.tsv", other, "eval", seed=1) == 0
    assert (other / "records.json").read_bytes() != (made["eval"] / "records.json").read_bytes()


def test_evaluation_asks_for_an_accepted_answer(made):
    from trainer.evaluation.grading import is_right, read_questions

    questions = read_questions(records(made["eval"]))
    replies = [r["conversations"][1]["value"] for r in records(made["eval"])]
    wrong = [(q.text, r, q.accepted) for q, r in zip(questions, replies, strict=True) if not is_right(q, r)]
    assert wrong == []


def test_bad_data_is_named(tmp_path, capsys):
    (tmp_path / "captions.tsv").write_text("a.jpg A dog runs .\n")
    arguments = [
        "--captions",
        str(tmp_path / "captions.tsv"),
        "--images",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(arguments) == 2
    assert "captions.tsv, line 1" in capsys.readouterr().err
    assert main([*arguments, "--boxes", "b.jsonl"]) == 2
    assert "--box-images" in capsys.readouterr().err
