"""Training checkpoints: the model in float32, the optimizer, the position in the data and the RNG.

Everything is safetensors and json. A checkpoint appears whole or not at all, and resuming from it
continues bit for bit.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from shared.checkpoint import CheckpointError, atomic_folder, load_projector, verify, write_model
from shared.model import MultimodalModel

log = logging.getLogger(__name__)


@dataclass
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
) -> Path:
    """Write `folder/step-N` and return it."""
    target = folder / f"step-{position.step:06d}"
    tensors, plain = _split(optimizer.state_dict()["state"])
    rng = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["rng.cuda"] = torch.cuda.get_rng_state()
    with atomic_folder(target) as scratch:
        write_model(model, scratch)
        save_file(
            {
                name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, t in (tensors | rng).items()
            },
            scratch / "training.safetensors",
        )
        state = {"position": asdict(position), "data": fingerprint, "optimizer": plain}
        (scratch / "training.json").write_text(json.dumps(state, indent=2) + "\n")
    return target


def restore_state(
    folder: Path, model: MultimodalModel, optimizer: torch.optim.Optimizer, fingerprint: str
) -> Position:
    """Put a verified checkpoint back into `model` and `optimizer`.

    Raises:
        CheckpointError: it was made with other data or another order of it.
    """
    state = json.loads((folder / "training.json").read_text())
    if state["data"] != fingerprint:
        raise CheckpointError(
            f"{folder} was trained on other data, batches or seed: resume with those, or start anew"
        )
    load_projector(model, folder)
    if isinstance(model.language, PeftModel):
        set_peft_model_state_dict(model.language, load_file(folder / "adapter" / "adapter_model.safetensors"))
    tensors = load_file(folder / "training.safetensors")
    torch.set_rng_state(tensors.pop("rng.cpu"))
    if (cuda := tensors.pop("rng.cuda", None)) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    merged = _join(tensors, state["optimizer"])
    optimizer.load_state_dict({"state": merged, "param_groups": optimizer.state_dict()["param_groups"]})
    return Position(**state["position"])


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


def _split(state: dict) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Optimizer state by path (`0/exp_avg`; bitsandbytes nests deeper), tensors apart from plain values."""
    flat = dict(_flatten(state, ""))
    tensors = {path: value for path, value in flat.items() if isinstance(value, torch.Tensor)}
    return tensors, {path: value for path, value in flat.items() if path not in tensors}


def _flatten(values: dict, prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _join(tensors: dict[str, torch.Tensor], plain: dict[str, object]) -> dict[int, dict]:
    state: dict[int, dict] = {}
    for path, value in (tensors | plain).items():
        index, *parents, name = path.split("/")
        place = state.setdefault(int(index), {})
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return state
