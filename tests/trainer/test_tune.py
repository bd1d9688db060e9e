"""A small study: real runs, pruned, resumed, and a best configuration that `finetune` takes."""

import json
import tomllib

import optuna
import pytest

from shared.checkpoint import build_model, read_config, save_checkpoint, verify
from shared.config import load_preset
from trainer.cli import main
from trainer.config import TrainConfig, load_config
from trainer.tuning.space import dump_toml, run_settings, search_space

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tiny_preset, colour_records, tmp_path_factory):
    """A base configuration of a tiny stage 2."""
    records, images = colour_records
    root = tmp_path_factory.mktemp("tune")
    preset = str(tiny_preset())
    arguments = ["--annotations", str(records), "--images", str(images), "--validation", "0.2"]
    assert main(["prepare", *arguments, "--out", str(root / "data"), "--preset", preset]) == 0
    save_checkpoint(build_model(load_preset(preset), dtype="float32"), root / "init")
    path = root / "base.toml"
    path.write_text(
        dump_toml(
            {
                "data": root / "data", "init": root / "init", "max_steps": 4, "batch_tokens": 150, "max_tokens": 128,
                "dtype": "float32", "validate_every": 2, "checkpoint_every": 100, "log_every": 1,
                "shares": {"text": 0.5},
            }
        )
    )  # fmt: skip
    return path


def test_a_study_prunes_resumes_and_ends_in_a_configuration(base, tmp_path, capsys):
    out = tmp_path / "study"
    out.mkdir()
    study = optuna.create_study(study_name="tune", storage=f"sqlite:///{out / 'study.db'}")
    for rate in (1e-3, 3e-3, 50.0):  # the last one makes the loss explode
        study.enqueue_trial({"learning_rate": rate, "lora_rank": 4})
    arguments = ["tune", "--base", str(base), "--out", str(out), "--search", "learning_rate", "lora_rank"]
    arguments += ["--space", "learning_rate=1e-4,100", "lora_rank=4,8", "--warm-trials", "1"]
    assert main([*arguments, "--trials", "2"]) == 0
    assert main([*arguments, "--trials", "3"]) == 0
    trials = json.loads((out / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    best = min(trials[:2], key=lambda trial: trial["value"])
    config = load_config(TrainConfig, out / "best.toml", {"out": tmp_path / "run"})
    assert config.learning_rate == best["params"]["learning_rate"]
    assert (config.lora_rank, config.max_steps, config.shares) == (4, 4, {"text": 0.5})
    for name in ("history.png", "importance.png"):
        assert (out / name).stat().st_size > 1000
    assert not list((out / "trials").glob("*/checkpoints"))
    assert main([*arguments, "--trials", "3"]) == 0  # already there
    assert len(json.loads((out / "trials.json").read_text())) == 3


def test_two_trials_at_once_in_one_study_of_one_base(base, tmp_path, capsys):
    arguments = ["tune", "--out", str(tmp_path / "study"), "--search", "learning_rate", "--no-prune"]
    assert main([*arguments, "--base", str(base), "--jobs", "2", "--trials", "2"]) == 0
    trials = json.loads((tmp_path / "study" / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["COMPLETE", "COMPLETE"]
    other = tmp_path / "other.toml"
    other.write_text(base.read_text().replace("max_steps = 4", "max_steps = 8"))
    assert main([*arguments, "--base", str(other), "--trials", "3"]) == 2
    assert "begun with another max_steps" in capsys.readouterr().err


def test_a_run_that_fails_is_named(base, tmp_path, capsys):
    broken = tmp_path / "broken.toml"
    broken.write_text(base.read_text().replace('"float32"', '"bfloat16"\ndevice = "cuda"'))
    assert main(["tune", "--base", str(broken), "--out", str(tmp_path / "study"), "--trials", "1"]) == 2
    assert "no trial was trained to its end" in capsys.readouterr().err


def test_values_become_settings(tiny_preset, base, tmp_path):
    values = {"lora_rank": 8, "lora_alpha_per_rank": 2, "teacher_forcing_low": 0.5}
    settings = run_settings({"preset": "embedded"}, values, stage="finetune", folder=tmp_path)
    assert settings["lora_alpha"] == 16
    assert (settings["teacher_forcing"], settings["teacher_forcing_low"]) == ("linear", 0.5)
    off = run_settings({}, {"teacher_forcing_low": 1.0}, stage="finetune", folder=tmp_path)
    assert off == {"teacher_forcing": "off"}
    other = run_settings({"init": "embedded"}, {"grid": 3}, stage="finetune", folder=tmp_path)
    verify(tmp_path / "grid-3")
    assert read_config(tmp_path / "grid-3").vision.grid == 3
    assert other["init"] == str(tmp_path / "grid-3")
    assert run_settings({"init": "embedded"}, {"grid": 4}, stage="finetune", folder=tmp_path) == {
        "init": "embedded"
    }
    other = run_settings({}, {"grid": 5}, stage="pretrain", folder=tmp_path)
    assert load_preset(other["preset"]).vision.grid == 5


def test_only_what_applies_is_searched(tiny_preset):
    embedded, clip = load_preset("embedded"), load_preset(str(tiny_preset()))
    assert "grid" in search_space([], {}, stage="pretrain", model=embedded, new_adapter=False)
    assert "lora_rank" not in search_space([], {}, stage="pretrain", model=embedded, new_adapter=False)
    going_on = search_space([], {}, stage="finetune", model=clip, new_adapter=False)
    assert "adapter_learning_rate" in going_on and not {"lora_rank", "grid"} & set(going_on)
    with pytest.raises(ValueError, match="grid"):
        search_space(["grid"], {}, stage="finetune", model=clip, new_adapter=True)
    with pytest.raises(ValueError, match="lowest and the highest"):
        search_space([], {"warmup_ratio": [0.1]}, stage="finetune", model=clip, new_adapter=True)


def test_toml_is_read_back():
    values = {"a": 1e-05, "b": True, "c": 'quo"te', "d": [1, 2], "e": {"x y": 0.5, "f": {"g": 1}}}
    assert tomllib.loads(dump_toml(values)) == values
