"""Learning rate over a run: linear warm-up, then half a cosine (Loshchilov and Hutter 2017)."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, total: int, *, warmup: int, min_ratio: float) -> float:
    """Share of the peak rate at optimizer step `step`, counted from 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
