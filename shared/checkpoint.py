"""A trained model on disk: one directory of safetensors and json, with a hash of every file.

    config.json            ModelConfig
    projector.safetensors  the projector, float32 or bf16
    adapter/               LoRA in PEFT's own format (absent after stage 1)
    manifest.json          SHA-256 and size of every other file

The frozen parts are not copied: `config.json` says where they come from. Anything missing, truncated
or changed is refused by name before a tensor is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.config import PRESETS, ModelConfig, preset_names
from shared.language import (
    Quantization,
    default_dtype,
    load_language_model,
    load_tokenizer,
    make_room_for_pad,
)
from shared.lora import PeftModel, load_lora
from shared.model import MultimodalModel
from shared.projector import build_projector
from shared.sharding import shard_like, whole_tensor
from shared.vision import load_vision_tower

MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, changed, or does not fit the model."""


def build_model(
    config: ModelConfig,
    *,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device = "cpu",
    quantization: Quantization = "none",
    attn_implementation: str | None = None,
) -> MultimodalModel:
    """A model with its pretrained tower and language model, and an untrained float32 projector."""
    dtype = (
        default_dtype(device)
        if dtype == "auto"
        else getattr(torch, dtype)
        if isinstance(dtype, str)
        else dtype
    )
    tokenizer = load_tokenizer(config.language)
    language = load_language_model(
        config.language,
        dtype=dtype,
        device=device,
        quantization=quantization,
        attn_implementation=attn_implementation,
    )
    make_room_for_pad(language, tokenizer)
    vision = load_vision_tower(config.vision).to(device)
    projector = build_projector(config.projector, vision.width, language.config.hidden_size).to(device)
    return MultimodalModel(config, vision, projector, language, tokenizer)


def load_model(
    checkpoint: str | Path,
    *,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device = "auto",
    quantization: Quantization = "none",
    merge_adapter: bool = True,
) -> MultimodalModel:
    """A trained model, ready to answer.

    Args:
        checkpoint: the name of a preset that ships its weights (`embedded`), or a checkpoint directory.
        merge_adapter: fold LoRA into the weights (in float32); False keeps a PEFT model.

    Raises:
        CheckpointError: with the file that is missing or damaged.
    """
    folder = checkpoint_folder(checkpoint)
    verify(folder)
    config = read_config(folder)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = build_model(config, dtype=dtype, device=device, quantization=quantization)
    load_projector(model, folder)
    if (folder / "adapter").is_dir():
        load_adapter(model, folder, merge=merge_adapter and quantization == "none")
    model.projector.to(model.dtype)
    return model.eval()


def checkpoint_folder(checkpoint: str | Path) -> Path:
    """The directory of a checkpoint given by path or by the name of a preset that ships its weights.

    Raises:
        CheckpointError: there is none.
    """
    if str(checkpoint) in preset_names():
        folder = PRESETS / str(checkpoint)
        if not (folder / MANIFEST).is_file():
            raise CheckpointError(
                f"the preset {checkpoint!r} ships no trained weights: train it, or give a checkpoint directory"
            )
        return folder
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is neither a directory nor one of the presets {', '.join(preset_names())}"
        )
    return folder


def read_config(folder: Path) -> ModelConfig:
    """The `ModelConfig` of a checkpoint."""
    try:
        return ModelConfig.model_validate_json((folder / "config.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"config.json of {folder} is not a model configuration: {error}") from error


def load_projector(model: MultimodalModel, folder: Path) -> None:
    """Put a checkpoint's projector into `model`.

    Raises:
        CheckpointError: it does not fit.
    """
    path = folder / "projector.safetensors"
    _copy(load_file(path), dict(model.projector.named_parameters()), path)


@torch.no_grad()
def _copy(saved: dict[str, Tensor], parameters: dict[str, Tensor], source: Path) -> None:
    if saved.keys() != parameters.keys():
        odd = sorted(saved.keys() ^ parameters.keys())
        raise CheckpointError(f"{source} does not fit its config.json: {odd[0]} is only on one side")
    for name, parameter in parameters.items():
        if saved[name].shape != parameter.shape:
            raise CheckpointError(
                f"{source} does not fit its config.json: {name} is {list(saved[name].shape)}, "
                f"the model takes {list(parameter.shape)}"
            )
        parameter.copy_(shard_like(saved[name], parameter))


def load_adapter(model: MultimodalModel, folder: Path, *, merge: bool, trainable: bool = False) -> None:
    """Put a checkpoint's LoRA on `model.language`; `merge` folds it into the weights, in float32."""
    dtype = model.dtype
    if merge:
        model.language.float()  # a bf16 sum would round the adapter away
    adapted = load_lora(model.language, folder / "adapter", trainable=trainable)
    model.language = adapted.merge_and_unload().to(dtype) if merge else adapted
    if not trainable:
        model.language.requires_grad_(False)


def save_checkpoint(model: MultimodalModel, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write what was trained; the folder appears whole or not at all.

    Args:
        dtype: of the stored tensors; None keeps them as they are (float32 while training).
    """
    with atomic_folder(folder) as scratch:
        write_model(model, scratch, trained_tensors(model, dtype))


@dataclass(frozen=True)
class TrainedTensors:
    """What learns, whole and on the CPU: the projector, and LoRA by the language model's parameter names."""

    projector: dict[str, Tensor]
    adapter: dict[str, Tensor]


def trained_tensors(model: MultimodalModel, dtype: torch.dtype | None = None) -> TrainedTensors:
    """Projector and adapters of `model`. Where processes share a model, all of them must call it."""

    def whole(module: nn.Module, part: str = "") -> dict[str, Tensor]:
        named = ((name, tensor) for name, tensor in module.named_parameters() if part in name)
        return {name: whole_tensor(tensor).to("cpu", dtype).contiguous() for name, tensor in named}

    adapted = isinstance(model.language, PeftModel)
    return TrainedTensors(whole(model.projector), whole(model.language, "lora_") if adapted else {})


def load_trained(model: MultimodalModel, folder: Path) -> None:
    """Put a checkpoint's projector and adapter into a model that has both, sharded or not."""
    load_projector(model, folder)
    if isinstance(model.language, PeftModel):
        saved = load_file(folder / "adapter" / "adapter_model.safetensors")
        own = dict(model.language.named_parameters())
        named = {name.replace(".weight", ".default.weight"): tensor for name, tensor in saved.items()}
        _copy(named, {name: own[name] for name in own if "lora_" in name}, folder / "adapter")


def write_model(model: MultimodalModel, folder: Path, trained: TrainedTensors) -> None:
    """Config, projector and adapter into an existing folder, without the manifest."""
    (folder / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n", "utf-8")
    save_file(trained.projector, folder / "projector.safetensors")
    if isinstance(model.language, PeftModel):
        # The base's public name: what it was loaded from may be a cache folder of this machine
        for adapter in model.language.peft_config.values():
            adapter.base_model_name_or_path = model.config.language.source
            adapter.revision = model.config.language.revision
        model.language.save_pretrained(
            folder / "adapter", state_dict=trained.adapter, save_embedding_layers=False
        )
        (folder / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's empty card


class atomic_folder:
    """`with atomic_folder(path) as scratch`: files written to `scratch` become `path`, hashed, at the end.

    A crash at any moment leaves the old `path` or the new one, never half of one. Between the two renames
    that swap them, the old one is called `.NAME.old`; the next writer puts it back.

    Raises:
        ValueError: `path` must be `new` and already holds something.
    """

    def __init__(self, folder: Path, *, new: bool = False):
        self.folder = Path(folder).resolve() if new else Path(folder)
        if new and self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(f"{self.folder} already holds something: give a new directory")
        self.scratch = self.folder.with_name(f".{self.folder.name}.partial")
        self.old = self.folder.with_name(f".{self.folder.name}.old")

    def __enter__(self) -> Path:
        if self.old.is_dir() and not self.folder.exists():
            self.old.rename(self.folder)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return self.scratch

    def __exit__(self, kind, value, traceback) -> None:
        if kind is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            return
        write_manifest(self.scratch)
        for path in self.scratch.rglob("*"):
            if path.is_file():
                path.chmod(self.scratch.stat().st_mode & 0o666)  # safetensors writes for its owner only
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(self.old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(self.old)
        self.scratch.rename(self.folder)
        shutil.rmtree(self.old, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file of the checkpoint."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n", "utf-8")


def verify(folder: Path) -> None:
    """Check every file of the manifest, and that nothing else lies in `adapter/`, which PEFT reads by itself.

    Raises:
        CheckpointError: names the first file that is missing, truncated, changed or unlisted.
    """
    files = _read_manifest(folder)
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing from the checkpoint {folder}")
        if (found := path.stat().st_size) != size:
            raise CheckpointError(f"{name} of {folder} has {found} bytes instead of {size}: truncated?")
        if _sha256(path) != digest:
            raise CheckpointError(f"{name} of {folder} is not the file that was saved: its hash differs")
    for name in ("config.json", "projector.safetensors"):
        if name not in files:
            raise CheckpointError(f"{name} is not in the manifest of {folder}")
    for path in sorted((folder / "adapter").rglob("*")):
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in files:
            raise CheckpointError(f"{name} of {folder} is not in its manifest: remove it, or save anew")


def _read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """(bytes, SHA-256) of every file by its path inside `folder`."""
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        return {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} has no readable {MANIFEST}: it is no whole checkpoint") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
