"""Settings of `tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainer.config import Settings


def _numbers(value: Any) -> Any:
    """`1e-4,1e-3` of a flag to a list."""
    return value.split(",") if isinstance(value, str) else value


class TuneConfig(Settings):
    """`tune`: a search over the settings of a training run."""

    base: Path = Field(description="TOML of the run to tune: data, init, max_steps and all that stays fixed.")
    data: Path | None = Field(None, description="Prepared data, instead of the base's.")
    init: str | None = Field(None, description="Checkpoint to start from, instead of the base's.")
    stage: Literal["pretrain", "finetune"] = "finetune"
    out: Path = Field(description="Directory: study.db, trials, best.toml, plots.")
    trials: int = Field(20, gt=0, description="Trials of the study in all, those of earlier calls included.")
    timeout: float | None = Field(None, gt=0, description="Seconds after which no new trial starts.")
    jobs: int = Field(1, gt=0, description="Trials at once in this call; other calls may share the storage.")
    search: list[str] = Field(
        [], description="Parameters searched; default: all of the space that the stage and the tower have."
    )
    space: dict[str, Annotated[list[float], BeforeValidator(_numbers)]] = Field(
        {},
        description="Other ranges: learning_rate=1e-4,1e-3 (lowest, highest), lora_rank=8,16 (choices).",
    )
    storage: str | None = Field(None, description="Optuna storage; default: sqlite:///OUT/study.db.")
    study: str = Field("tune", description="Name of the study in the storage.")
    warm_trials: int = Field(4, ge=1, description="Random trials before TPE proposes and pruning begins.")
    prune: bool = Field(True, description="Stop a trial whose validation loss is above the median.")
    seed: int = 0
