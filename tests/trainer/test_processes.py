"""Several processes (gloo) learn what one learns; one that is killed is continued by any number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.config import PrepareConfig, TrainConfig
from trainer.data.prepare import prepare
from trainer.stages import finetune, pretrain

ENV = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
STEPS = 12


@pytest.fixture(scope="module")
def settings(tiny_preset, colour_records, tmp_path_factory) -> dict:
    """Settings of a stage 2 run, its data and stage 1 made."""
    records, images = colour_records
    root = tmp_path_factory.mktemp("processes")
    preset = str(tiny_preset("phi"))
    prepare(PrepareConfig(annotations=[records], images=[images], out=root / "data", preset=preset))
    common = {
        "data": root / "data", "dtype": "float32", "batch_tokens": 150, "max_tokens": 128, "accumulation": 3,
        "device": "cpu", "log_every": 1, "mirror": True, "samples": 1,
    }  # fmt: skip
    assert pretrain(TrainConfig(**common, out=root / "stage1", preset=preset, max_steps=2))
    return common | {
        "init": root / "stage1" / "final", "max_steps": STEPS, "lora_dropout": 0.0, "lora_rank": 4,
        "learning_rate": 3e-3, "checkpoint_every": 2, "validate_every": 6, "teacher_forcing": "cosine",
    }  # fmt: skip


@pytest.fixture(scope="module")
def single(settings, tmp_path_factory) -> Path:
    """The same run on one process."""
    out = tmp_path_factory.mktemp("single")
    assert finetune(TrainConfig(**settings, out=out))
    return out


def launch(settings: dict, out: Path, processes: int, *more: str) -> subprocess.Popen:
    file = out.with_suffix(".toml")
    file.write_text("".join(f"{k} = {json.dumps(v, default=str)}\n" for k, v in settings.items()))
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
         "-m", "trainer", "finetune", "--config", str(file), "--out", str(out), *more],
        env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(ours: Path, theirs: Path) -> None:
    for name in ("loss", "val_loss", "grad_norm", "epoch"):
        left, right = (
            [(row["step"], row[name]) for row in rows(out) if name in row] for out in (ours, theirs)
        )
        assert [step for step, _ in left] == [step for step, _ in right]
        assert [value for _, value in left] == pytest.approx([value for _, value in right], rel=2e-3)
    for part in ("projector.safetensors", "adapter/adapter_model.safetensors"):
        left, right = (load_file(out / "checkpoints" / f"step-{STEPS:06d}" / part) for out in (ours, theirs))
        for name, tensor in left.items():
            torch.testing.assert_close(tensor, right[name], rtol=2e-2, atol=2e-3)
    positions = [
        json.loads((out / "checkpoints" / f"step-{STEPS:06d}" / "training.json").read_text())["position"]
        for out in (ours, theirs)
    ]
    assert positions[0] == positions[1]


@pytest.mark.slow
def test_two_processes_give_the_single_ones_curve(settings, single, tmp_path):
    process = launch(settings, tmp_path / "two", 2)
    said, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, said[-3000:]
    assert_same_run(tmp_path / "two", single)
    assert (tmp_path / "two" / "final" / "manifest.json").is_file()


@pytest.mark.slow
def test_one_of_two_is_killed_and_one_alone_goes_on(settings, single, tmp_path):
    out = tmp_path / "two"
    process = launch(settings, out, 2)
    while not list((out / "checkpoints").glob("step-*4")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    process.communicate(timeout=3000)
    assert process.returncode != 0 and not (out / "final").exists()
    assert finetune(TrainConfig(**settings, out=out, resume=True))
    assert_same_run(out, single)


def test_more_processes_than_batches_in_a_step_is_an_error(settings, tmp_path):
    process = launch(settings | {"accumulation": 1}, tmp_path / "two", 2)
    said, _ = process.communicate(timeout=3000)
    assert process.returncode != 0 and "set --accumulation to 2 or more" in said
