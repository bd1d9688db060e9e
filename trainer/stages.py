"""The two stages as numbered prose: what is loaded, what is frozen, what learns.

Stage 1 (`pretrain`): vision tower and language model frozen, the projector learns.
Stage 2 (`finetune`): LoRA adapters (on a bf16 base, or on NF4: QLoRA) and the projector learn.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from shared.checkpoint import (
    build_model,
    checkpoint_folder,
    load_adapter,
    load_projector,
    read_config,
    save_checkpoint,
    verify,
)
from shared.config import load_preset
from shared.language import attach_lora
from shared.model import MultimodalModel
from trainer.align import align_projector
from trainer.config import TrainConfig
from trainer.data.features import FeatureCache, build_features
from trainer.data.loader import PackLoader
from trainer.data.prepared import PreparedData, Split
from trainer.loop import TrainingLoop

log = logging.getLogger(__name__)


def pretrain(config: TrainConfig) -> bool:
    """Stage 1: only the projector learns. Returns False when interrupted."""
    # 1. The model, its language model frozen by loading
    torch.manual_seed(config.seed)
    model = _build(config)
    if config.init is not None:
        load_projector(model, _verified(config.init))
    # 2. Data: packed dialogues and the frozen tower's features
    train, validation, features = _data(config, model, images_only=True)
    # 3. Stage 0: start where captions live
    if config.align and config.init is None and features is not None:
        explained = align_projector(model, train, features)
        log.info("projector aligned: %.0f %% of the caption embeddings' variance explained", 100 * explained)
    # 4. Train
    groups = [_group("projector", model.projector.parameters(), config.learning_rate)]
    return _run(
        TrainingLoop(model, config, train, validation, features, _optimizer(groups, config), "pretrain")
    )


def finetune(config: TrainConfig) -> bool:
    """Stage 2: LoRA and the projector learn. Returns False when interrupted.

    Raises:
        ValueError: no `init` to start from.
    """
    if config.init is None:
        raise ValueError("finetune starts from a stage 1 checkpoint: give --init DIR")
    # 1. The model of stage 1
    torch.manual_seed(config.seed)
    folder = _verified(config.init)
    model = _build(config, folder)
    load_projector(model, folder)
    # 2. Adapters: those of the checkpoint, or new ones
    if (folder / "adapter").is_dir():
        load_adapter(model, folder, merge=False, trainable=True)
    else:
        model.language = attach_lora(
            model.language,
            model.config.language.lora_targets,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
        )
    # 3. Data
    train, validation, features = _data(config, model)
    # 4. Train, each part at its own rate
    adapter = [parameter for parameter in model.language.parameters() if parameter.requires_grad]
    groups = [
        _group("projector", model.projector.parameters(), config.learning_rate),
        _group("adapter", adapter, config.adapter_learning_rate or config.learning_rate),
    ]
    return _run(
        TrainingLoop(model, config, train, validation, features, _optimizer(groups, config), "finetune")
    )


def _build(config: TrainConfig, init: Path | None = None) -> MultimodalModel:
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    model = build_model(
        load_preset(config.preset) if init is None else read_config(init),
        dtype=config.dtype,
        device=device,
        quantization=config.quantization,
        attn_implementation="eager" if device == "cpu" else None,  # SDPA's masked backward is slow on CPU
    )
    if config.gradient_checkpointing:
        model.language.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _verified(init: Path) -> Path:
    folder = checkpoint_folder(init)
    verify(folder)
    return folder


def _data(
    config: TrainConfig, model: MultimodalModel, *, images_only: bool = False
) -> tuple[PackLoader, PackLoader | None, FeatureCache | None]:
    data = PreparedData(config.data)
    data.require(model.config.vision)

    def loader(split: Split) -> PackLoader:
        return PackLoader(
            data,
            split,
            model,
            batch_tokens=config.batch_tokens,
            max_tokens=config.max_tokens,
            shares=config.shares,
            seed=config.seed,
            images_only=images_only,
        )

    train = loader("train")
    validation = loader("val") if data.count("val") else None
    names = train.images + (validation.images if validation else [])
    if not names:
        return train, validation, None
    features = build_features(model.vision, names, data.images, config.data, mirror=config.mirror)
    return train, validation, features


def _group(name: str, parameters, rate: float) -> dict:
    return {"name": name, "params": list(parameters), "lr": rate}


def _optimizer(groups: list[dict], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(groups, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def _run(loop: TrainingLoop) -> bool:
    _log_sizes(loop.model)
    loop.config.out.mkdir(parents=True, exist_ok=True)
    (loop.config.out / "config.json").write_text(loop.config.model_dump_json(indent=2) + "\n", "utf-8")
    finished = loop.run()
    if finished:
        save_checkpoint(loop.model, loop.config.out / "final", dtype=torch.bfloat16)
        log.info("final model: %s", loop.config.out / "final")
    return finished


def _log_sizes(model: nn.Module) -> None:
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    log.info("%s parameters learn, %s are frozen", f"{learns:,}", f"{frozen:,}")
