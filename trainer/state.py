"""Training checkpoints: what learns in float32, the optimizer, the position in the data and the RNG.

Everything is safetensors and json, and whole tensors, whatever the number of processes that hold them: any
other number resumes from it. A checkpoint appears whole or not at all; on one process, resuming continues
bit for bit.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.checkpoint import (
    CheckpointError,
    atomic_folder,
    load_trained,
    trained_tensors,
    verify,
    write_model,
)
from shared.model import MultimodalModel
from shared.sharding import shard_like, whole_tensor
from trainer.config import TrainConfig

log = logging.getLogger(__name__)

ENGINE = "deepspeed"


# What a checkpoint cannot do without, and what may change without a word
_NEEDED = ("accumulation", "lora_rank", "optimizer", "quantization")
_FREE = frozenset((
    "data", "out", "resume", "device", "max_steps", "checkpoint_every", "keep_checkpoints", "validate_every",
    "validation_batches", "samples", "log_every", "wandb", "wandb_project", "compile", "gradient_checkpointing",
))  # fmt: skip


@dataclass(frozen=True)
class Position:
    """Where a run stands: the next batch of the data, and the optimizer steps behind it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    labels_seen: int = 0


def save_state(
    folder: Path,
    model: MultimodalModel,
    optimizer: torch.optim.Optimizer,
    position: Position,
    fingerprint: str,
    config: TrainConfig,
    *,
    writes: bool = True,
    engine: nn.Module | None = None,
) -> None:
    """Write `folder/step-N`. Every process takes part; the one that `writes` has all of it in memory.

    DeepSpeed's `engine` writes the optimizer's shards itself, into `deepspeed/`, on a file system that all share.
    """
    target = folder / f"step-{position.step:06d}"
    shards = target.with_name(f".{target.name}.deepspeed")
    trained = trained_tensors(model)
    tensors, plain = {}, {}
    if engine is not None:
        engine.save_checkpoint(str(shards), tag=ENGINE, exclude_frozen_parameters=True)
    else:
        tensors, plain = _split(optimizer.state_dict()["state"])
        tensors = {name: whole_tensor(tensor) for name, tensor in tensors.items()}
    if not writes:
        return
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    with atomic_folder(target) as scratch:
        write_model(model, scratch, trained)
        if engine is not None:
            shards.rename(scratch / ENGINE)
        # cloned: tensors that share storage, as 8-bit AdamW's tables do, are refused
        whole = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
        save_file(whole, scratch / "training.safetensors")
        state = {
            "position": asdict(position),
            "data": fingerprint,
            "settings": config.model_dump(mode="json"),
            "optimizer": plain,
        }
        (scratch / "training.json").write_text(json.dumps(state, indent=2) + "\n")


def restore_state(
    folder: Path,
    model: MultimodalModel,
    optimizer: torch.optim.Optimizer,
    fingerprint: str,
    config: TrainConfig,
    *,
    engine: nn.Module | None = None,
) -> Position:
    """Put a verified checkpoint back into `model` and `optimizer`. Other settings are named in the log.

    Raises:
        CheckpointError: it was made with other data, another order of it, or settings it cannot do without; or
            it was made with DeepSpeed and this run is without, or the other way round.
    """
    state = json.loads((folder / "training.json").read_text())
    if state["data"] != fingerprint:
        raise CheckpointError(
            f"{folder} was trained on other data, batches or seed: resume with those, or start anew"
        )
    _compare_settings(folder, state.get("settings", {}), config.model_dump(mode="json"))
    load_trained(model, folder)
    tensors = load_file(folder / "training.safetensors")
    torch.set_rng_state(tensors.pop("rng.cpu"))
    if (cuda := tensors.pop("rng.cuda", None)) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    if (folder / ENGINE).is_dir() != (engine is not None):
        raise CheckpointError(f"{folder}: only a run with DeepSpeed goes on from one with DeepSpeed")
    if engine is not None:
        engine.load_checkpoint(str(folder / ENGINE), tag=ENGINE, load_module_strict=False)
        return Position(**state["position"])
    merged = _join(tensors, state["optimizer"])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in merged.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                values[name] = shard_like(value, parameters[index])
    optimizer.load_state_dict({"state": merged, "param_groups": optimizer.state_dict()["param_groups"]})
    return Position(**state["position"])


def _compare_settings(folder: Path, saved: dict, now: dict) -> None:
    changed = {name for name in saved.keys() & now.keys() if saved[name] != now[name]} - _FREE
    for name in _NEEDED:
        if name in changed:
            raise CheckpointError(
                f"{folder} was trained with {name} = {saved[name]}, not {now[name]}: resume with that, or start "
                "anew in another --out"
            )
    for name in sorted(changed):
        log.warning("%s is %s from here on; it was %s up to %s", name, now[name], saved[name], folder.name)


def holds_states(folder: Path) -> bool:
    """Whether a run has left checkpoints in `folder`."""
    return any(folder.glob("step-*"))


def newest_state(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; damaged ones are named in the log and passed over."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            verify(candidate)
            return candidate
        except CheckpointError as error:
            log.warning("not resuming from %s: %s", candidate.name, error)
    return None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def _split(state: dict) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Optimizer state by path (`0/exp_avg`; bitsandbytes nests deeper), tensors apart from plain values."""
    flat = dict(_flatten(state, ""))
    tensors = {path: value for path, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {path: value for path, value in flat.items() if path not in tensors}


def _flatten(values: dict, prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _join(tensors: dict[str, Tensor], plain: dict[str, object]) -> dict[int, dict]:
    state: dict[int, dict] = {}
    for path, value in (tensors | plain).items():
        index, *parents, name = path.split("/")
        place = state.setdefault(int(index), {})
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return state
