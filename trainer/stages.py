"""The two stages as numbered prose: what is loaded, what is frozen, what learns.

Stage 1 (`pretrain`): vision tower and language model frozen, the projector learns.
Stage 2 (`finetune`): LoRA adapters (on a bf16 base, or on NF4: QLoRA) and the projector learn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from shared.checkpoint import (
    atomic_folder,
    build_model,
    checkpoint_folder,
    default_dtype,
    load_adapter,
    load_projector,
    read_config,
    trained_tensors,
    verify,
    write_model,
)
from shared.config import load_preset
from shared.lora import attach_lora
from shared.model import MultimodalModel
from shared.projector import ResBlockProjector
from trainer.align import align_projector
from trainer.config import TrainConfig
from trainer.data.features import FeatureCache, build_features
from trainer.data.loader import PackLoader
from trainer.data.prepared import PreparedData, Split
from trainer.data.steps import BatchMaker
from trainer.devices import choose_attention, compile_layers, start_accelerator
from trainer.loop import TrainingLoop
from trainer.self_critical import SelfCritic
from trainer.state import holds_states
from trainer.validation import Validation

log = logging.getLogger(__name__)


def pretrain(config: TrainConfig) -> bool:
    """Stage 1: only the projector learns. Returns False when interrupted."""
    accelerator = _start(config)
    # 1. The model, its language model frozen by loading
    model = _build(config, accelerator)
    if config.init is not None:
        load_projector(model, _verified(config.init))
    # 2. Data: packed dialogues and the frozen tower's features
    data = _load_data(config, model, accelerator, images_only=True)
    # 3. Stage 0: start where captions live
    if config.init is None and _can_align(config, model):
        explained = align_projector(model, data.train, data.features)
        log.info("projector aligned: %.0f %% of the caption embeddings' variance explained", 100 * explained)
    # 4. Train
    groups = [_group("projector", model.projector.parameters(), config.learning_rate)]
    return _train(config, accelerator, model, data, groups, "pretrain")


def finetune(config: TrainConfig) -> bool:
    """Stage 2: LoRA and the projector learn. Returns False when interrupted.

    Raises:
        ValueError: no `init` to start from.
    """
    if config.init is None:
        raise ValueError("finetune starts from a stage 1 checkpoint: give --init DIR")
    accelerator = _start(config)
    # 1. The model of stage 1
    folder = _verified(config.init)
    model = _build(config, accelerator, folder)
    load_projector(model, folder)
    # 2. Adapters: those of the checkpoint, or new ones
    if (folder / "adapter").is_dir():
        load_adapter(model, folder, merge=False, trainable=True)
        _warn_of_ignored_lora_settings(config, model)
    else:
        model.language = attach_lora(
            model.language,
            model.config.language.lora_targets,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
        )
    # 3. Data
    data = _load_data(config, model, accelerator)
    # 4. Train, each part at its own rate
    adapter = [parameter for parameter in model.language.parameters() if parameter.requires_grad]
    groups = [
        _group("projector", model.projector.parameters(), config.learning_rate),
        _group("adapter", adapter, config.adapter_learning_rate or config.learning_rate),
    ]
    return _train(config, accelerator, model, data, groups, "finetune")


def _can_align(config: TrainConfig, model: MultimodalModel) -> bool:
    if config.align and not isinstance(model.projector, ResBlockProjector):
        log.info("the projector starts at random: only that with the residual block can be aligned")
        return False
    return config.align


def _start(config: TrainConfig) -> Accelerator:
    """The devices; the run directory is free, or the run that it holds is to be continued."""
    if not config.resume and holds_states(config.out / "checkpoints"):
        raise ValueError(
            f"{config.out} holds the checkpoints of a run: continue it with --resume, or choose another --out"
        )
    accelerator = start_accelerator(config.device, config.accumulation, config.max_grad_norm)
    _refuse_what_is_not_sharded(config, accelerator)
    torch.manual_seed(config.seed)
    return accelerator


def _refuse_what_is_not_sharded(config: TrainConfig, accelerator: Accelerator) -> None:
    kind = accelerator.distributed_type
    if kind not in ("FSDP", "DEEPSPEED"):
        return
    if config.self_critical:
        raise ValueError("self_critical: a sharded model cannot sample; train on one device or with DDP")
    if config.optimizer == "adamw8bit":
        raise ValueError("adamw8bit is for one device or DDP: its state cannot be sharded; use adamw")
    if kind == "FSDP" and config.quantization == "nf4":
        raise ValueError(
            "FSDP does not shard 4-bit weights: use --quantization none, or nf4 on one device or with DDP"
        )


def _build(config: TrainConfig, accelerator: Accelerator, init: Path | None = None) -> MultimodalModel:
    # FSDP brings the layers to the GPU one by one, as shards: the whole need not fit there
    whole_on = torch.device("cpu") if accelerator.distributed_type == "FSDP" else accelerator.device
    model = build_model(
        load_preset(config.preset) if init is None else read_config(init),
        dtype=default_dtype(accelerator.device) if config.dtype == "auto" else config.dtype,
        device=whole_on,
        quantization=config.quantization,
        attn_implementation=choose_attention(config.attention, accelerator.device),
    )
    if config.max_tokens > model.context_length:
        raise ValueError(
            f"max_tokens is {config.max_tokens}, the language model reads {model.context_length} at most"
        )
    model.vision.to(accelerator.device)
    if config.quantization == "nf4":
        keep_gradients_through_4bit(model.language)
    if config.gradient_checkpointing:
        model.language.activation_checkpointing_enable({"use_reentrant": False})
    return model


def keep_gradients_through_4bit(model: nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights for inference at the first forward pass in eval mode on a CPU with
    AVX512-BF16, as in a validation; from then on no gradient would pass through them."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _warn_of_ignored_lora_settings(config: TrainConfig, model: MultimodalModel) -> None:
    adapter = model.language.peft_config["default"]
    for name, theirs in (
        ("lora_rank", adapter.r), ("lora_alpha", adapter.lora_alpha), ("lora_dropout", adapter.lora_dropout)
    ):  # fmt: skip
        if name in config.model_fields_set and theirs != getattr(config, name):
            log.warning("%s stays %s, as in the adapter of %s", name, theirs, config.init)


def _verified(init: Path) -> Path:
    folder = checkpoint_folder(init)
    verify(folder)
    return folder


@dataclass
class Data:
    """What a run learns from."""

    train: PackLoader
    validation: PackLoader | None
    features: FeatureCache | None
    prepared: PreparedData


def _load_data(
    config: TrainConfig, model: MultimodalModel, accelerator: Accelerator, *, images_only: bool = False
) -> Data:
    prepared = PreparedData(config.data)
    prepared.require(model.config.vision)

    def loader(split: Split, self_critical: Sequence[str] = ()) -> PackLoader:
        return PackLoader(
            prepared,
            split,
            model.prompt,
            batch_tokens=config.batch_tokens,
            max_tokens=config.max_tokens,
            shares=config.shares,
            seed=config.seed,
            images_only=images_only,
            trees=config.attention != "flash_attention_2",
            self_critical=self_critical,
            samples=config.self_critical_samples,
        )

    train = loader("train", config.self_critical)
    train.check_shares()
    validation = None
    if prepared.count("val"):
        try:
            validation = loader("val")
            validation.batches(0)
        except ValueError as error:
            log.warning("no validation: %s", error)
            validation = None
    # Of all images, also where a record is left out: runs with other settings read the same file
    names = prepared.images.usable
    features = None
    if names:
        # One process of all computes them; then, where machines share no file system, one on each
        if accelerator.is_main_process:
            build_features(model.vision, names, prepared.images, config.data, mirror=config.mirror)
        accelerator.wait_for_everyone()
        with accelerator.local_main_process_first():
            features = build_features(model.vision, names, prepared.images, config.data, mirror=config.mirror)
    return Data(train, validation, features, prepared)


def _group(name: str, parameters, rate: float) -> dict:
    return {"name": name, "params": list(parameters), "lr": rate}


def _optimizer(groups: list[dict], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(groups, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def _train(
    config: TrainConfig,
    accelerator: Accelerator,
    model: MultimodalModel,
    data: Data,
    groups: list[dict],
    stage: str,
) -> bool:
    _log_sizes(model)
    if config.compile:
        compile_layers(model.causal_lm.get_decoder())
    maker = BatchMaker(model, data.features, flat=config.attention == "flash_attention_2")
    validation = None
    if data.validation is not None:
        validation = Validation(data.validation, maker, data.features, config, data.prepared.images.read)
    critic = SelfCritic(model, maker, data.train, config) if config.self_critical else None
    loop = TrainingLoop(
        accelerator, model, config, data.train, maker, _optimizer(groups, config), stage=stage,
        validation=validation, critic=critic,
    )  # fmt: skip
    finished = loop.run()
    if finished:
        trained = trained_tensors(model, torch.bfloat16)
        if accelerator.is_main_process:
            with atomic_folder(config.out / "final") as scratch:
                write_model(model, scratch, trained)
            log.info("final model: %s", config.out / "final")
    accelerator.end_training()
    return finished


def _log_sizes(model: nn.Module) -> None:
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    log.info("%s parameters learn, %s are frozen", f"{learns:,}", f"{frozen:,}")
