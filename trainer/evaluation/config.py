"""Settings of `evaluate`: what is asked, what it is compared with, and who answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from trainer.config import Settings

SHORT = "Answer the question using a single word or phrase."  # LLaVA-1.5's, Liu et al. 2023


class EvaluateConfig(Settings):
    """`evaluate`: scores beside their baselines."""

    checkpoint: str = Field("embedded", description="Preset with weights, or a checkpoint directory.")
    url: str | None = Field(
        None,
        description="A running service, such as http://127.0.0.1:8000, instead of a checkpoint; its API key is"
        " taken from the environment variable SERVICE_API_KEY.",
    )
    baselines: bool = Field(False, description="No model: the baselines alone.")
    out: Path = Field(description="JSON to write; .answers.json and .png appear beside it.")
    resume: bool = Field(
        False, description="Keep the answers that a stopped call with this --out has already."
    )

    captions: Path | None = Field(None, description="Lines of file<TAB>caption: score captions (needs Java).")
    annotations: list[Path] = Field([], description="LLaVA records whose first question is asked.")
    vqa: list[Path] = Field([], max_length=2, description="VQAv2: questions JSON and annotations JSON.")
    textvqa: Path | None = Field(None, description="TextVQA: its JSON with data and answers.")
    gqa: Path | None = Field(None, description="GQA: its balanced questions JSON.")
    pope: list[Path] = Field([], description="POPE: JSONL files of yes/no questions, one per setting.")
    pope_boxes: Path | None = Field(
        None,
        description="POPE questions are built from it: JSONL of image and objects (name), or COCO's instances.",
    )
    perplexity: list[Path] = Field(
        [], description="LLaVA records: perplexity of their answers (with --checkpoint)."
    )
    retention: bool = Field(False, description="Ask the held-out plain-text questions, too.")
    images: list[Path] = Field([], description="Folders searched in order for a picture.")
    limit: int | None = Field(None, gt=0, description="Only so many photographs and questions of each set.")
    instruction: str = Field(
        SHORT, description="Added to questions of VQAv2, TextVQA and GQA, on its own line."
    )

    neighbours: Path | None = Field(
        None, description="Training captions, file<TAB>caption: nearest-neighbour and consensus captions."
    )
    neighbour_images: Path | None = Field(None, description="Their folder; default: those of --images.")
    training: list[Path] = Field([], description="LLaVA records that the guesses are taken from.")
    blind: bool = Field(False, description="Also the model with mean features (only with --checkpoint).")

    preset: str | None = Field(
        None,
        description="Vision tower of the neighbours and base of the retention; default: the checkpoint's own,"
        " with --url and --baselines `embedded`.",
    )
    cache: Path | None = Field(None, description="Folder of vision features; default: features beside --out.")
    batch_size: int = Field(32, gt=0, description="Questions at once, with --checkpoint.")
    concurrency: int = Field(16, gt=0, description="Requests at once, with --url.")
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> EvaluateConfig:
        if self.url and (self.baselines or "checkpoint" in self.model_fields_set):
            raise ValueError("give one of --url, --checkpoint and --baselines")
        if self.baselines and "checkpoint" in self.model_fields_set:
            raise ValueError("give one of --checkpoint and --baselines")
        asked = ("captions", "annotations", "vqa", "textvqa", "gqa", "pope", "pope_boxes", "perplexity")
        if not self.retention and not any(getattr(self, name) for name in asked):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
            raise ValueError(f"nothing to do: give one of {flags} or --retention")
        if len(self.vqa) == 1:
            raise ValueError("--vqa takes two files, the questions and the annotations")
        if self.perplexity and self.url:
            raise ValueError("--perplexity needs the model in this process: use --checkpoint")
        if self.perplexity and self.baselines:
            raise ValueError("--perplexity needs a model: leave out --baselines")
        if self.retention and self.baselines:
            raise ValueError("--retention needs a model: leave out --baselines")
        return self

    @property
    def features(self) -> Path:
        """Folder of cached vision features."""
        return self.cache or self.out.parent / "features"
