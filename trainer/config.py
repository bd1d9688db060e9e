"""Settings of the trainer's verbs: one pydantic model each, read from TOML and overridden by flags."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Base: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class PrepareConfig(Settings):
    """`prepare`: records and images to clean, split training data."""

    annotations: list[Path] = Field([], description="LLaVA JSON or JSONL, Flickr8k or COCO captions.")
    format: Literal["auto", "llava", "flickr8k", "coco"] = Field(
        "auto", description="Format of the annotations; auto: told by each file's name and beginning."
    )
    images: list[Path] = Field(
        [], description="Folders, zip and tar archives, searched in order for each record's image."
    )
    dataset: str | None = Field(
        None, description="Hub dataset to download, e.g. liuhaotian/LLaVA-CC3M-Pretrain-595K."
    )
    dataset_files: list[str] = Field(
        [], description="Its files; default: those LLaVA trains on. Archives (.zip, .tar) are images."
    )
    revision: str = Field(
        "main", description="Its branch, tag or commit; the commit is recorded, and kept when continuing."
    )
    offline: bool = Field(False, description="Take the dataset from the local cache only.")
    out: Path = Field(description="Directory to write; a stopped run goes on there.")
    preset: str = Field(
        "embedded", description="Model preset to prepare for: decides the images' size and fit."
    )
    validation: float = Field(0.02, ge=0, lt=1, description="Share of images (and text records) held out.")
    max_answer_chars: int = Field(4000, gt=0, description="Longer answers are dropped and counted.")
    strict: bool = Field(False, description="Any record that would be dropped is an error.")
    workers: int = Field(os.cpu_count() or 2, ge=1, description="Processes that check and resize images.")
    seed: int = Field(0, description="Of the split.")

    @model_validator(mode="after")
    def _has_records(self) -> PrepareConfig:
        if not self.annotations and not self.dataset:
            raise ValueError("nothing to prepare: give --annotations or --dataset")
        return self


class TrainConfig(Settings):
    """`pretrain` and `finetune`: one training run."""

    data: Path = Field(description="Directory that `prepare` wrote.")
    out: Path = Field(description="Run directory: checkpoints, logs, plots, the final model.")
    preset: str = Field("embedded", description="Model preset; finetune takes it from --init.")
    init: Path | None = Field(None, description="Checkpoint to start from.")
    seed: int = 0

    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int | None = Field(
        None, gt=0, description="Stop after this many optimizer steps, schedule included."
    )
    batch_tokens: int = Field(1024, gt=0, description="Tokens per forward pass, padding included.")
    accumulation: int = Field(
        1, gt=0, description="Batches per optimizer step, over all processes: the same step on any number."
    )
    max_tokens: int = Field(
        384, gt=0, description="Tokens per row; a dialogue too long loses its oldest turns."
    )
    shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="Share of each kind of record used per epoch, 0 to 1; default 1."
    )
    mirror: bool = Field(False, description="Mirror half of the images whose dialogues name no side.")

    learning_rate: float = Field(1e-3, gt=0, description="Peak rate of the projector.")
    adapter_learning_rate: float | None = Field(
        None, gt=0, description="Peak rate of LoRA; default: learning_rate."
    )
    min_lr_ratio: float = Field(
        0.05, ge=0, le=1, description="Last rate as a share of the peak (cosine schedule)."
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of the steps with rising rate.")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit: bitsandbytes' paged 8-bit AdamW."
    )
    teacher_forcing: Literal["off", "linear", "cosine"] = Field(
        "off", description="Scheduled sampling: how the share of gold input tokens falls in each cycle."
    )
    teacher_forcing_cycles: int = Field(4, gt=0, description="Cycles over the run.")
    teacher_forcing_low: float = Field(0.5, ge=0, lt=1, description="Share of gold tokens at a cycle's end.")
    self_critical: list[str] = Field(
        [],
        description="Kinds of records whose questions the model answers itself, by sampling: the answers whose "
        "CIDEr against those of the data is above the mean of its other answers become likelier.",
    )
    self_critical_samples: int = Field(5, ge=2, description="Answers sampled to each such question.")
    self_critical_temperature: float = Field(
        1.0, gt=0, description="At which they are sampled; below 1 they are more like greedy answers."
    )
    self_critical_tokens: int = Field(32, gt=0, description="Tokens of a sampled answer at most.")
    self_critical_weight: float = Field(
        1.0, gt=0, description="Of their loss beside the cross-entropy of the other kinds."
    )
    align: bool = Field(
        True, description="Stage 1: start from the ridge solution features -> caption embeddings."
    )

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"
    quantization: Literal["none", "nf4"] = "none"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto",
        description="auto: eager on a CPU, sdpa elsewhere. flash_attention_2 trains every dialogue by itself.",
    )
    compile: bool = Field(False, description="torch.compile on the decoder's layers.")
    gradient_checkpointing: bool = False
    lora_rank: int = Field(16, gt=0)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)

    checkpoint_every: int = Field(200, gt=0, description="Optimizer steps between checkpoints.")
    keep_checkpoints: int = Field(2, gt=0)
    validate_every: int = Field(200, gt=0, description="Optimizer steps between validations.")
    validation_batches: int = Field(16, gt=0)
    samples: int = Field(4, ge=0, description="Validation questions answered at each validation.")
    log_every: int = Field(10, gt=0)
    wandb: Literal["off", "offline", "online"] = Field("off", description="Weights & Biases logging.")
    wandb_project: str = "multimodal-llm"
    resume: bool = Field(False, description="Continue from the newest whole checkpoint in `out`.")

    @model_validator(mode="after")
    def _fits_self_critical(self) -> TrainConfig:
        if self.self_critical and self.teacher_forcing != "off":
            raise ValueError("self_critical: its answers are the model's own; leave teacher_forcing off")
        if self.self_critical and self.attention == "flash_attention_2":
            raise ValueError(
                "self_critical: sampled answers share a prompt in a token tree, which "
                "flash_attention_2 cannot; use sdpa"
            )
        return self


class AverageConfig(Settings):
    """`average`: the mean of checkpoints."""

    checkpoints: list[str] = Field(
        min_length=2, description="Presets with weights, or checkpoint directories."
    )
    weights: list[float] = Field([], description="Of each, in any unit; default: the same for all.")
    out: Path = Field(description="Directory to write.")

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> AverageConfig:
        if self.weights and len(self.weights) != len(self.checkpoints):
            raise ValueError(f"{len(self.checkpoints)} checkpoints and {len(self.weights)} weights")
        if any(weight < 0 for weight in self.weights) or (self.weights and not sum(self.weights)):
            raise ValueError("weights are not negative, and not all 0")
        return self


def load_config(
    kind: type[Settings], file: Path | None, overrides: dict, defaults: dict | None = None
) -> Settings:
    """Read TOML `file`, lay `overrides` over it, put `defaults` where both say nothing, check everything.

    Raises:
        ValueError: the file is no TOML (pydantic's ValidationError is one, too).
    """
    values: dict = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{file}: {error}") from error
    return kind.model_validate((defaults or {}) | values | overrides)
