"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from trainer.config import Settings


class ExportConfig(Settings):
    """`export`: a checkpoint in other programs' formats."""

    checkpoint: str = Field("embedded", description="Preset with weights, or a checkpoint directory.")
    out: Path = Field(description="Directory to write.")
    format: Literal["auto", "multimodal", "llava", "language", "adapter"] = Field(
        "auto",
        description="multimodal: the whole model for AutoModelForImageTextToText (import shared.pretrained)."
        " llava: LlavaForConditionalGeneration, for mlp2x_gelu with CLIP. language: the merged language model"
        " alone. adapter: LoRA for plain PEFT. auto: llava where it can be, else multimodal.",
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Of the language model's weights.")
