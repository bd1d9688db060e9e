"""Checkpoints of a model that two processes hold in shards (FSDP2): one process goes on from them, and back."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.sharded import objective_of, train

ENV = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def train_sharded(preset, folder, steps: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "tests.trainer.sharded", str(preset), str(folder), str(steps)],
        env=ENV, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_shards_then_one_process_then_two_shards_learn_what_one_process_learns(tiny_preset, tmp_path):
    preset = tiny_preset("phi")
    mixed, single = tmp_path / "mixed", tmp_path / "single"
    mixed.mkdir()
    single.mkdir()
    train_sharded(preset, mixed, 2)
    train(objective_of(str(preset)), mixed, 2)
    train_sharded(preset, mixed, 2)
    train(objective_of(str(preset)), single, 6)
    for name in ("projector.safetensors", "adapter/adapter_model.safetensors", "training.safetensors"):
        ours, theirs = (load_file(folder / "step-000006" / name) for folder in (mixed, single))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            if key != "rng.cpu":
                torch.testing.assert_close(tensor, theirs[key], rtol=1e-3, atol=1e-5)
