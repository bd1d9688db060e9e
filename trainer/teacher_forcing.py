"""Scheduled sampling for transformers in two passes (Mihaylova and Martins 2019).

A first pass without gradient gives the model's own predictions; they take the places of the gold tokens
of an answer with probability 1 - ratio, and a second pass learns the gold labels from that input. In a
token tree a token's replacement is the prediction at its parent. The ratio falls from 1 in cycles, each
along a line or half a cosine. The token that ends an answer stays: in use it always is the real one.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Shape = Literal["linear", "cosine"]


def teacher_forcing_ratio(step: int, total: int, *, shape: Shape, cycles: int, low: float) -> float:
    """Share of gold tokens in the input at optimizer step `step` of `total`: 1 to `low` in every cycle."""
    phase = (step * cycles / total) % 1
    fall = phase if shape == "linear" else 0.5 * (1 - math.cos(math.pi * phase))
    return 1 - (1 - low) * fall


def draw_replaced(
    targets: Tensor, labels: Tensor, ratio: float, *, end_token_id: int, seed: list[int]
) -> Tensor:
    """Which of the tokens `targets` the model's own predictions replace.

    Args:
        targets: `[labels]`, index of each label's own token in the flattened batch. Dialogues that
            share a token share its fate.
        labels: `[labels]`, the token ids.
        seed: of the draw.

    Returns:
        Indices into `targets`.
    """
    tokens, occurrences = np.unique(targets.numpy(), return_inverse=True)
    own = np.random.default_rng(seed).random(len(tokens)) >= ratio
    return torch.from_numpy(np.flatnonzero(own[occurrences] & (labels.numpy() != end_token_id)))


def replace_inputs(input_ids: Tensor, targets: Tensor, predictions: Tensor) -> Tensor:
    """`input_ids` `[batch, tokens]` with `predictions` `[replaced]` at the flattened indices `targets`."""
    return input_ids.flatten().scatter(0, targets, predictions).view_as(input_ids)
