"""`python -m trainer evaluate` in this process, with a tiny untrained model."""

import hashlib
import json
import shutil

import pytest
import torch
from PIL import Image

from shared.checkpoint import build_model, save_checkpoint
from shared.config import load_preset
from trainer.cli import main
from trainer.evaluation.answering import ModelAnswerer
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.perplexity import PerplexityTask


@pytest.fixture(scope="module")
def checkpoint(tiny_preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "checkpoint"
    save_checkpoint(build_model(load_preset(str(tiny_preset())), dtype="float32"), folder)
    return folder


def test_questions_end_in_json_table_and_picture(checkpoint, colour_records, tmp_path, capsys):
    records, images = colour_records
    out = tmp_path / "result.json"
    arguments = ["--checkpoint", str(checkpoint), "--dtype", "float32", "--annotations", str(records)]
    arguments += ["--training", str(records), "--images", str(images), "--blind", "--out", str(out)]
    assert main(["evaluate", *arguments]) == 0
    result = json.loads(out.read_text())["questions"]["colour"]
    assert result["questions"] == 72
    assert {"model", "blind", "prior", "majority"} < set(result)
    assert 0 < result["prior"]["value"] < 1
    assert "colour" in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 1000
    answers = json.loads(out.with_suffix(".answers.json").read_text())["questions"]
    assert len(answers) == 80


def test_a_stopped_evaluation_goes_on_with_the_answers_it_has(checkpoint, colour_records, tmp_path, capsys):
    records, images = colour_records
    out = tmp_path / "result.json"
    arguments = ["evaluate", "--checkpoint", str(checkpoint), "--dtype", "float32", "--images", str(images)]
    arguments += ["--annotations", str(records), "--limit", "6", "--batch-size", "2", "--out", str(out)]
    assert main(arguments) == 0
    whole = json.loads(out.with_suffix(".answers.json").read_text())
    journal = out.with_suffix(".model.jsonl")
    assert not journal.exists()

    asked = [item for item in whole["questions"] if item["image"]]
    kept = {
        "question": asked[0]["question"],
        "picture": str(images / asked[0]["image"]),
        "reply": "MINE\u2028",
    }
    weights = hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()[:12]
    lines = [
        json.dumps({"answerer": f"{checkpoint} {weights} float32"}),
        json.dumps(kept),
        '{"question": "cut of',
    ]
    journal.write_text("\n".join(lines))
    assert main([*arguments, "--resume"]) == 0
    again = json.loads(out.with_suffix(".answers.json").read_text())
    assert [item["model"]["reply"] for item in again["questions"] if item["id"] == asked[0]["id"]] == [
        "MINE\u2028"
    ]
    assert sum(a != b for a, b in zip(whole["questions"], again["questions"], strict=True)) == 1

    journal.write_text("\n".join([json.dumps({"answerer": "another"}), json.dumps(kept)]))
    assert main([*arguments, "--resume"]) == 2
    assert "holds answers of another" in capsys.readouterr().err


def test_a_service_that_is_not_there_leaves_nothing_in_the_way(colour_records, tmp_path, capsys):
    records, images = colour_records
    arguments = [
        "evaluate",
        "--url",
        "http://127.0.0.1:9",
        "--annotations",
        str(records),
        "--images",
        str(images),
    ]
    for _ in range(2):
        assert main([*arguments, "--limit", "2", "--out", str(tmp_path / "result.json")]) == 2
        assert "http://127.0.0.1:9 was not reached" in capsys.readouterr().err


def test_blind_answers_are_the_same_for_every_picture(tiny_preset, colour_records, tmp_path):
    _, images = colour_records
    model = build_model(load_preset(str(tiny_preset())), dtype="float32").eval()
    items = [("What colour is it?", images / f"{i}.png") for i in (0, 1, 2, 3)] + [("Hello?", None)]
    blind = ModelAnswerer(model, tmp_path, max_new_tokens=8, blind=True)(items)
    assert len(set(blind[:4])) == 1
    seeing = ModelAnswerer(model, tmp_path, max_new_tokens=8)
    alone = [seeing([item])[0] for item in items]
    assert seeing(items) == alone


def test_benchmarks_and_perplexity_in_one_run_from_a_file(checkpoint, colour_records, tmp_path, capsys):
    records, images = colour_records
    gqa = {str(i): {"imageId": "x", "question": "What colour is it?", "answer": "red"} for i in range(3)}
    (tmp_path / "gqa.json").write_text(json.dumps(gqa))
    (tmp_path / "x.jpg").write_bytes((images / "0.png").read_bytes())
    names = ["dog", "cat", "car", "bus", "cow", "cup"]
    boxes = [{"image": f"{i}.png", "objects": [{"name": n} for n in names[i : i + 3]]} for i in range(4)]
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, boxes)))
    out = tmp_path / "result.json"
    config = tmp_path / "evaluate.toml"
    config.write_text(
        f"""checkpoint = "{checkpoint}"
gqa = "{tmp_path / "gqa.json"}"
pope_boxes = "{tmp_path / "boxes.jsonl"}"
perplexity = ["{records}"]
images = ["{tmp_path}", "{images}"]
blind = true
dtype = "float32"
"""
    )
    assert main(["evaluate", "--config", str(config), "--limit", "6", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["gqa"]["questions"] == 3 and "accuracy" in result["gqa"]["blind"]
    assert {"random", "popular", "adversarial"} == set(result["pope"])
    assert 0 <= result["pope"]["random"]["model"]["yes_ratio"]["value"] <= 1
    assert result["perplexity"]["model"]["perplexity"] > 1
    said = capsys.readouterr().out
    assert "POPE" in said and "perplexity" in said and "gqa" in said
    assert out.with_suffix(".png").stat().st_size > 1000


def test_perplexity_is_that_of_one_dialogue_at_a_time(tiny_preset, colour_records, tmp_path):
    records, images = colour_records
    model = build_model(load_preset(str(tiny_preset())), dtype="float32").eval()
    config = EvaluateConfig(perplexity=[records], images=[images], out=tmp_path / "o.json", limit=8)
    task = PerplexityTask(config)
    task.ask({"model": ModelAnswerer(model, tmp_path, batch_size=5)})
    nats = tokens = 0
    for record, picture in zip(task.records, task.pictures, strict=True):
        encoded = model.prompt.encode_dialogue(list(record.messages))
        features = None
        if picture is not None:
            with Image.open(picture) as image:
                features = model.encode_images(model.preprocess([image.convert("RGB")]))
        with torch.no_grad():
            logits = model(torch.tensor([encoded.input_ids]), features).logits[0].double().log_softmax(-1)
        for at, label in enumerate(encoded.labels):
            if label >= 0:
                nats -= float(logits[at - 1, label])
                tokens += 1
    result = task.score()["model"]
    assert result["tokens"] == tokens
    assert result["nats_per_token"] == pytest.approx(
        nats / tokens, rel=1e-3
    )  # features are cached as float16


def test_answers_are_kept_when_scoring_fails(checkpoint, tmp_path, photo, monkeypatch, capsys):
    photo.save(tmp_path / "a.png")
    (tmp_path / "captions.tsv").write_text("a.png\tA house in the sun .\n")
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    out = tmp_path / "result.json"
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--dtype",
        "float32",
        "--captions",
        str(tmp_path / "captions.tsv"),
    ]
    arguments += ["--images", str(tmp_path), "--out", str(out)]
    assert main(["evaluate", *arguments]) == 2
    assert "captions could not be scored" in capsys.readouterr().err
    assert "a.png" in json.loads(out.with_suffix(".answers.json").read_text())["captions"]["model"]
    java.unlink()
    out.with_suffix(".answers.json").unlink()
    assert main(["evaluate", *arguments]) == 2
    assert "Java is needed" in capsys.readouterr().err
    assert not out.with_suffix(".answers.json").exists()  # said before anything was answered


def test_a_missing_neighbour_and_a_broken_picture_are_named(checkpoint, tmp_path, photo_jpeg, capsys):
    if shutil.which("java") is None:
        pytest.skip("no Java for PTB tokenizer and METEOR")
    (tmp_path / "broken.jpg").write_bytes(photo_jpeg[: len(photo_jpeg) // 2])
    (tmp_path / "captions.tsv").write_text("broken.jpg\tA house .\n")
    (tmp_path / "training.tsv").write_text("gone.jpg\tA house .\n")
    out = tmp_path / "result.json"
    arguments = ["evaluate", "--checkpoint", str(checkpoint), "--images", str(tmp_path), "--out", str(out)]
    arguments += ["--captions", str(tmp_path / "captions.tsv")]
    assert main([*arguments, "--neighbours", str(tmp_path / "training.tsv")]) == 2
    assert "gone.jpg is in none of" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "broken.jpg: The image file is broken or truncated" in capsys.readouterr().err


def test_one_caption_a_photograph_leaves_out_the_human_row(checkpoint, tmp_path, photo):
    if shutil.which("java") is None:
        pytest.skip("no Java for PTB tokenizer and METEOR")
    photo.save(tmp_path / "a.png")
    photo.transpose(0).save(tmp_path / "b.png")
    (tmp_path / "captions.tsv").write_text("a.png\tA house in the sun .\nb.png\tA red house .\n")
    out = tmp_path / "result.json"
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--dtype",
        "float32",
        "--captions",
        str(tmp_path / "captions.tsv"),
    ]
    assert main(["evaluate", *arguments, "--images", str(tmp_path), "--out", str(out)]) == 0
    assert list(json.loads(out.read_text())["captions"]) == ["model"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://127.0.0.1:9", "--checkpoint", "embedded", "--retention"], "one of --url"),
        (["--url", "http://127.0.0.1:9", "--perplexity", "x.json"], "use --checkpoint"),
        (["--checkpoint", "embedded"], "nothing to do"),
        (["--baselines", "--retention"], "--retention needs a model"),
        (["--checkpoint", "no-such-folder", "--retention"], "no-such-folder"),
        (["--url", "http://127.0.0.1:9", "--retention"], "was not reached"),
    ],
)
def test_mistakes_are_said(arguments, message, tmp_path, capsys):
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "result.json")]) == 2
    assert message in capsys.readouterr().err
