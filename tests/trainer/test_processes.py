"""Several processes (gloo) learn what one learns; one that is killed is continued by any number."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from trainer.config import PrepareConfig, TrainConfig
from trainer.data.prepare import prepare
from trainer.stages import finetune, pretrain

ENV = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
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


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def launch(settings: dict, out: Path, *more: str, launcher: tuple[str, ...] = TORCHRUN) -> subprocess.Popen:
    """Two processes of the trainer."""
    file = out.with_suffix(".toml")
    file.write_text("".join(f"{k} = {json.dumps(v, default=str)}\n" for k, v in settings.items()))
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "trainer", "finetune", "--config", str(file), "--out", str(out), *more],
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
    process = launch(settings, tmp_path / "two")
    said, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, said[-3000:]
    assert_same_run(tmp_path / "two", single)
    assert (tmp_path / "two" / "final" / "manifest.json").is_file()


@pytest.mark.slow
def test_one_of_two_is_killed_and_one_alone_goes_on(settings, single, tmp_path):
    out = tmp_path / "two"
    process = launch(settings, out)
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
    process = launch(settings | {"accumulation": 1}, tmp_path / "two")
    said, _ = process.communicate(timeout=3000)
    assert process.returncode != 0 and "set --accumulation to 2 or more" in said


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("deepspeed"), reason="the package deepspeed is not installed"
)
def test_deepspeed_gives_the_single_ones_curve_and_goes_on_from_its_own_checkpoint(
    settings, single, tmp_path
):
    """ZeRO-2 through the recipe's own file, on two processes of this machine instead of sixteen GPUs."""
    out = tmp_path / "zero"
    recipe = Path("trainer/recipes/accelerate/zero2.yaml")
    here = {"num_machines": 1, "num_processes": 2, "use_cpu": True}
    config = tmp_path / "zero2.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | here))
    launcher = ("accelerate.commands.launch", "--config_file", str(config))
    for more in ((), ("--resume",)):
        process = launch(settings | {"keep_checkpoints": 9}, out, *more, launcher=launcher)
        said, _ = process.communicate(timeout=3000)
        assert process.returncode == 0, said[-3000:]
        assert_same_run(out, single)
        assert ("resuming from step-000006" in said) == bool(more)
        for step in range(8, STEPS + 1, 2):
            assert (
                len(list((out / "checkpoints" / f"step-{step:06d}" / "deepspeed").rglob("*optim_states.pt")))
                == 2
            )
            shutil.rmtree(out / "checkpoints" / f"step-{step:06d}")
