"""Both stages by their command: what learns, what stays, a clean stop of a process, and resuming bit for bit."""

import contextlib
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shared.checkpoint import build_model, load_model
from shared.config import load_preset
from trainer.cli import main

pytestmark = pytest.mark.slow

ENV = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def trainer(*args: object) -> list[str]:
    return [sys.executable, "-m", "trainer", *map(str, args)]


def run(*args: object, expect: int = 0) -> str:
    """The command in this process, which has imported everything already; what it says."""
    said = io.StringIO()
    handler, root = logging.StreamHandler(said), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([str(arg) for arg in args])
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert code == expect, said.getvalue()[-2000:]
    return said.getvalue()


def stage(verb: str, data: Path, out: Path, *more: object) -> list[object]:
    return [
        verb, "--data", data, "--out", out, "--max-steps", 24, "--batch-tokens", 150, "--accumulation", 2,
        "--max-tokens", 128, "--checkpoint-every", 4, "--validate-every", 12, "--samples", 1, "--log-every", 1,
        "--lora-dropout", 0.1, "--lora-rank", 4, "--learning-rate", 3e-3, "--dtype", "float32", "--mirror", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tiny_preset, colour_records, tmp_path_factory) -> Path:
    records, images = colour_records
    out = tmp_path_factory.mktemp("prepared")
    run("prepare", "--annotations", records, "--images", images, "--out", out, "--preset", tiny_preset(),
        "--validation", 0.1)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def runs(prepared, tiny_preset, tmp_path_factory) -> dict[str, Path]:
    """Uninterrupted runs of both stages."""
    root = tmp_path_factory.mktemp("runs")
    run(*stage("pretrain", prepared, root / "pretrain", "--preset", tiny_preset()))
    run(*stage("finetune", prepared, root / "finetune", "--init", root / "pretrain" / "final"))
    return {"pretrain": root / "pretrain", "finetune": root / "finetune"}


def arguments(verb: str, prepared: Path, out: Path, runs: dict[str, Path], tiny_preset) -> list[object]:
    if verb == "pretrain":
        return stage("pretrain", prepared, out, "--preset", tiny_preset())
    return stage("finetune", prepared, out, "--init", runs["pretrain"] / "final")


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    for _ in range(15_000):
        metrics = out / "metrics.jsonl"
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= step:
            return
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)
    raise AssertionError("the run never reached the step")


def assert_same_tensors(left: Path, right: Path) -> None:
    names = sorted(path.relative_to(left) for path in left.rglob("*.safetensors"))
    assert names == sorted(path.relative_to(right) for path in right.rglob("*.safetensors"))
    for name in names:
        ours, theirs = load_file(left / name), load_file(right / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), f"{name}: {key} differs"


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_killed_and_resumed_ends_in_the_same_bits(verb, prepared, runs, tiny_preset, tmp_path):
    out = tmp_path / verb
    args = arguments(verb, prepared, out, runs, tiny_preset)
    process = subprocess.Popen(trainer(*args), env=ENV, stderr=subprocess.DEVNULL)
    wait_for_step(process, out, random.randint(6, 18))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "final").exists()
    said = run(*args, "--resume")
    assert "resuming from step-" in said
    assert_same_tensors(out / "final", runs[verb] / "final")
    assert_same_tensors(out / "checkpoints" / "step-000024", runs[verb] / "checkpoints" / "step-000024")
    steps = [
        row["step"]
        for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if "loss" in row
    ]
    assert steps == list(range(1, 25))


def test_interrupt_writes_a_checkpoint_and_exits_130(prepared, tiny_preset, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        trainer(*stage("pretrain", prepared, out, "--preset", tiny_preset(), "--checkpoint-every", 1000)), env=ENV,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_step(process, out, 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert list((out / "checkpoints").glob("step-*"))


def test_a_damaged_checkpoint_is_passed_over(prepared, runs, tiny_preset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(runs["pretrain"] / "checkpoints", out / "checkpoints")
    damaged = out / "checkpoints" / "step-000024" / "projector.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    said = run(*arguments("pretrain", prepared, out, runs, tiny_preset), "--resume")
    assert "not resuming from step-000024: projector.safetensors" in said
    assert_same_tensors(out / "final", runs["pretrain"] / "final")


def test_resume_with_other_data_is_refused(prepared, runs, tiny_preset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(runs["pretrain"] / "checkpoints", out / "checkpoints")
    said = run(*arguments("pretrain", prepared, out, runs, tiny_preset), "--resume", "--seed", 5, expect=2)
    assert "other data" in said


def test_stage_1_trains_only_the_projector(runs, tiny_preset):
    before = build_model(load_preset(str(tiny_preset())), dtype="float32")
    after = load_model(runs["pretrain"] / "final", dtype="float32")
    for part in ("vision", "language"):
        for (name, old), (_, new) in zip(
            getattr(before, part).state_dict().items(), getattr(after, part).state_dict().items(), strict=True
        ):
            assert torch.equal(old, new), f"{part}.{name} changed"
    assert not (runs["pretrain"] / "final" / "adapter").exists()
    fresh = before.projector.state_dict()
    changed = [
        name for name, tensor in after.projector.state_dict().items() if not torch.equal(tensor, fresh[name])
    ]
    assert set(changed) == set(fresh)


def test_stage_2_trains_adapters_and_projector_and_stays_inside_the_frozen_base(runs, tiny_preset):
    base = build_model(load_preset(str(tiny_preset())), dtype="float32").language.state_dict()
    tuned = load_model(runs["finetune"] / "final", dtype="float32", merge_adapter=False)
    for name, tensor in tuned.causal_lm.state_dict().items():
        if "lora_" in name:
            assert "lora_A" in name or tensor.any(), f"{name} never learned"
        else:
            assert torch.equal(tensor, base[name.replace(".base_layer", "")]), f"{name} changed"
    stage_1 = load_file(runs["pretrain"] / "final" / "projector.safetensors")
    assert any(
        not torch.equal(stage_1[name], tensor) for name, tensor in tuned.projector.state_dict().items()
    )


def test_the_loss_falls_and_everything_is_logged(runs):
    rows = [json.loads(line) for line in (runs["finetune"] / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert any("val_loss" in row for row in rows) and any("samples" in row for row in rows)
    for name in ("curves.png", "config.json", "tensorboard"):
        assert (runs["finetune"] / name).exists()
    assert len(list((runs["finetune"] / "checkpoints").iterdir())) == 2


def test_finetune_without_a_start_and_unknown_settings_exit_2(prepared, tmp_path):
    assert "--init" in run("finetune", "--data", prepared, "--out", tmp_path, expect=2)
    config = tmp_path / "bad.toml"
    config.write_text("learning_rat = 1\n")
    said = run("pretrain", "--config", config, "--data", prepared, "--out", tmp_path, expect=2)
    assert "learning_rat" in said


def test_qlora_trains_on_a_four_bit_base_and_loads_on_a_plain_one(prepared, runs, tmp_path):
    args = stage("finetune", prepared, tmp_path / "q", "--init", runs["pretrain"] / "final", "--quantization", "nf4",
                 "--gradient-checkpointing", "--optimizer", "adamw8bit")  # fmt: skip
    run(*args)
    rows = [json.loads(line) for line in (tmp_path / "q" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    shutil.rmtree(tmp_path / "q" / "checkpoints" / "step-000024")
    assert "resuming from step-000020" in run(*args, "--resume")  # the 8-bit optimizer's state, too
    assert load_model(tmp_path / "q" / "final", dtype="float32").config.name == "tiny-llama"
