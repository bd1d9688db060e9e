"""Settings of `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from trainer.config import Settings


def _gib(value: object) -> object:
    return value.lower().removesuffix("gib").strip() if isinstance(value, str) else value


class PlanConfig(Settings):
    """`plan`: what a training run will take, before it begins."""

    stage: Literal["pretrain", "finetune"] = Field("finetune", description="Stage 1 or stage 2.")
    run: Path | None = Field(
        None, description="TOML of the run: its settings, and the trainer's defaults, where no flag is given."
    )
    preset: str = Field("phi2", description="Model preset.")

    batch_tokens: int | None = Field(
        None, gt=0, description="Tokens per forward pass; default: what fits --gpu-memory, else 1024."
    )
    max_tokens: int = Field(384, gt=0, description="Tokens per row.")
    accumulation: int | None = Field(
        None, gt=0, description="Forward passes per optimizer step; default: as --step-tokens asks."
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Of the frozen weights.")
    quantization: Literal["auto", "none", "nf4"] = Field(
        "auto", description="auto: nf4 only where --gpu-memory needs it."
    )
    gradient_checkpointing: bool | None = Field(
        None, description="Default: only where --gpu-memory needs it."
    )
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="auto: sdpa, as on a GPU; flash attention is planned as sdpa."
    )
    lora_rank: int = Field(16, gt=0)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)

    gpu: str = Field("A100", description="For the hours: A100, H100, H200, L40S, L4, A10G, RTX 4090, ...")
    gpu_memory: Annotated[float, BeforeValidator(_gib)] | None = Field(
        None, gt=0, description="GiB, as 10 or 10GiB; suggests settings that fit."
    )
    utilization: float = Field(
        0.35, gt=0, le=1, description="Share of the GPU's dense bf16 peak that is reached."
    )
    price: float | None = Field(None, gt=0, description="Per GPU hour, in any currency; gives the cost.")
    gpus: int = Field(1, gt=0, description="GPUs, each with the whole model (DDP).")

    records: int | None = Field(
        None, gt=0, description="Records in the data; default: LLaVA's 595,375 (stage 1) or 157,712."
    )
    record_tokens: int | None = Field(
        None, gt=0, description="Tokens of a record; default: 41 (stage 1) or 281, and the image's."
    )
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, gt=0, description="Optimizer steps at most.")
    label_share: float = Field(0.4, gt=0, le=1, description="Share of the tokens that are learned answers.")
    step_tokens: int = Field(16384, gt=0, description="Tokens wanted per optimizer step.")
    out: Path | None = Field(None, description="Also write the plan as JSON.")
