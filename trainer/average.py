"""`python -m trainer average`: the mean of the weights of checkpoints of one model.

Between a model and what it became by training on lie models that are often better than both: the noise of either
end averages out (Wortsman et al. 2022, "Model soups" and "Robust fine-tuning of zero-shot models"). LoRA's two
factors are averaged each by itself, which for checkpoints of one run, or of runs that start from one another, is
close to the mean of their products.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.checkpoint import CheckpointError, atomic_folder, checkpoint_folder, read_config, verify
from trainer.config import AverageConfig

_TENSORS = ("projector.safetensors", "adapter/adapter_model.safetensors")
_ADAPTER = "adapter/adapter_config.json"
# Settings that decide what an adapter's weights mean
_SHAPING = ("r", "lora_alpha", "target_modules", "use_rslora")


def average(config: AverageConfig) -> None:
    """Write the weighted mean of `config.checkpoints` to `config.out`, in bfloat16.

    Raises:
        CheckpointError: one is missing or damaged, or they are not of one model.
        ValueError: `config.out` already holds something.
    """
    folders = [checkpoint_folder(checkpoint) for checkpoint in config.checkpoints]
    for folder in folders:
        verify(folder)
    first, *others = folders
    for other in others:
        _compare(first, other)
    weights = config.weights or [1.0] * len(folders)
    with atomic_folder(config.out, new=True) as scratch:
        shutil.copy(first / "config.json", scratch / "config.json")
        if (first / _ADAPTER).is_file():
            (scratch / "adapter").mkdir()
            shutil.copy(first / _ADAPTER, scratch / _ADAPTER)
        for name in filter(lambda name: (first / name).is_file(), _TENSORS):
            mean = _mean([load_file(folder / name) for folder in folders], weights)
            save_file(mean, scratch / name, metadata={"format": "pt"})


def _mean(parts: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    total = sum(weights)
    mean = {}
    for name in parts[0]:
        weighted = (weight / total * part[name].double() for part, weight in zip(parts, weights, strict=True))
        mean[name] = sum(weighted).to(torch.bfloat16)
    return mean


def _compare(first: Path, other: Path) -> None:
    """Raises CheckpointError where the two are not of one model."""
    if read_config(first) != read_config(other):
        raise CheckpointError(f"{first} and {other} are not of one model: their config.json differ")
    for name in _TENSORS:
        shapes = [
            {key: tensor.shape for key, tensor in load_file(folder / name).items()}
            if (folder / name).is_file()
            else None
            for folder in (first, other)
        ]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{name} of {first} and of {other} do not hold tensors of the same shapes")
    if (first / _ADAPTER).is_file():
        left, right = (json.loads((folder / _ADAPTER).read_text("utf-8")) for folder in (first, other))
        for name in _SHAPING:
            ours, theirs = left.get(name), right.get(name)
            if ours != theirs and not (isinstance(ours, list) and sorted(ours) == sorted(theirs or [])):
                raise CheckpointError(f"the adapters of {first} and {other} differ in {name}")
