"""`python -m trainer evaluate` in this process, with a tiny untrained model."""

import json

import pytest

from shared.checkpoint import build_model, save_checkpoint
from shared.config import load_preset
from trainer.answering import ModelAnswerer
from trainer.cli import main


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


def test_blind_answers_are_the_same_for_every_picture(tiny_preset, colour_records, tmp_path):
    _, images = colour_records
    model = build_model(load_preset(str(tiny_preset())), dtype="float32").eval()
    items = [("What colour is it?", images / f"{i}.png") for i in (0, 1, 2, 3)] + [("Hello?", None)]
    blind = ModelAnswerer(model, tmp_path, max_new_tokens=8, blind=True)(items)
    assert len(set(blind[:4])) == 1
    seeing = ModelAnswerer(model, tmp_path, max_new_tokens=8)
    alone = [seeing([item])[0] for item in items]
    assert seeing(items) == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "embedded"], "nothing to do"),
        (["--checkpoint", "no-such-folder", "--retention"], "no-such-folder"),
        (["--url", "http://127.0.0.1:9", "--retention"], "was not reached"),
    ],
)
def test_mistakes_are_said(arguments, message, tmp_path, capsys):
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "result.json")]) == 2
    assert message in capsys.readouterr().err
