"""Checkpoints of a model that two processes hold in shards (FSDP2): one process goes on from them, and back."""

import multiprocessing
import tempfile
from multiprocessing import connection
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.sharded import objective_of, train, work


def train_sharded(preset, folder, steps: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.sharded"])
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        ours = [
            context.Process(target=work, args=(rank, 2, store, str(preset), folder, steps), daemon=True)
            for rank in (0, 1)
        ]
        for process in ours:
            process.start()
        running = list(ours)
        while running and connection.wait([process.sentinel for process in running], 600):
            running = [process for process in running if process.is_alive()]
            if any(process.exitcode for process in ours):
                break  # the other would wait for it
        for process in running:
            process.terminate()
        assert [process.exitcode for process in ours] == [0, 0]


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
