"""On a GPU, started as people start it: QLoRA, a compiled run, FSDP and DeepSpeed, each interrupted and continued."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared.checkpoint import load_model
from shared.prompt import Message

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

RECIPES = Path(__file__).parents[2] / "trainer" / "recipes" / "accelerate"
STEPS, HALF = 24, 12
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed"
)


def run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "0"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def stage_1(tiny_preset, colour_records, tmp_path_factory):
    """`stage_1(kind)`: prepared data and the folder of a stage 1 run on the GPU."""
    records, images = colour_records
    root = tmp_path_factory.mktemp("stage1")

    def make(kind: str) -> tuple[Path, Path]:
        data, out = root / f"{kind}-data", root / kind
        if not out.exists():
            preset = tiny_preset(kind)
            run(
                "trainer",
                "prepare",
                "--annotations",
                records,
                "--images",
                images,
                "--out",
                data,
                "--preset",
                preset,
            )
            run("trainer", "pretrain", "--data", data, "--out", out, "--preset", preset, "--max-steps", 12,
                "--batch-tokens", 150, "--max-tokens", 128, "--log-every", 1)  # fmt: skip
        return data, out

    return make


def finetune(
    stage_1: tuple[Path, Path], out: Path, *more: object, launcher: tuple[object, ...] = ()
) -> list[float]:
    """A stage 2 run's losses."""
    data, first = stage_1
    run(
        *launcher, "trainer", "finetune", "--data", data, "--out", out, "--init", first / "final",
        "--max-steps", STEPS, "--batch-tokens", 150, "--max-tokens", 128, "--accumulation", 2, "--learning-rate", 3e-3,
        "--lora-rank", 4, "--lora-dropout", 0, "--checkpoint-every", HALF, "--validate-every", HALF, "--samples", 1,
        "--log-every", 1, *more,
    )  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def continued(stage_1: tuple[Path, Path], whole: Path, out: Path, *more: object, **options) -> list[float]:
    """The losses of the run in `whole`, taken up again at its half."""
    shutil.copytree(whole / "checkpoints", out / "checkpoints")
    shutil.rmtree(out / "checkpoints" / f"step-{STEPS:06d}")
    return finetune(stage_1, out, *more, "--resume", **options)


@pytest.mark.parametrize("kind", ["phi", "phi3"])
def test_qlora_learns_continues_and_answers(stage_1, tmp_path, kind):
    qlora = ("--quantization", "nf4", "--optimizer", "adamw8bit", "--gradient-checkpointing")
    data = stage_1(kind)
    losses = finetune(data, tmp_path / "whole", *qlora)
    assert len(losses) == STEPS and losses[-1] < losses[0] / 2
    again = continued(data, tmp_path / "whole", tmp_path / "again", *qlora)
    assert again == pytest.approx(losses[HALF:], rel=0.05, abs=0.02)
    model = load_model(tmp_path / "whole" / "final", quantization="nf4")
    assert model.device.type == "cuda"
    model.answer([([Message("user", ("Is it red?",))], None)], max_new_tokens=2)


def test_compiled_layers_learn_the_same(stage_1, tmp_path):
    data = stage_1("phi")
    plain = finetune(data, tmp_path / "plain", "--dtype", "float32")
    compiled = finetune(data, tmp_path / "compiled", "--dtype", "float32", "--compile")
    assert compiled == pytest.approx(plain, rel=0.02, abs=0.005)


@pytest.mark.parametrize("recipe", ["fsdp", pytest.param("zero2", marks=needs_deepspeed)])
def test_a_sharded_run_of_one_process_learns_the_same(stage_1, tmp_path, recipe):
    launcher = (
        "accelerate.commands.launch", "--config_file", RECIPES / f"{recipe}.yaml", "--num_processes", 1,
        "--num_machines", 1, "--machine_rank", 0, "--main_process_ip", "127.0.0.1", "--main_process_port",
        29517, "-m",
    )  # fmt: skip
    data = stage_1("phi")
    plain = finetune(data, tmp_path / "plain")
    whole = finetune(data, tmp_path / "whole", launcher=launcher)
    assert whole == pytest.approx(plain, rel=0.1, abs=0.02)
    again = continued(data, tmp_path / "whole", tmp_path / "again", launcher=launcher)
    assert again == pytest.approx(whole[HALF:], rel=0.1, abs=0.02)
