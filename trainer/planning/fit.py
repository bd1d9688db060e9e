"""Settings that fit a GPU's memory: the batch, then gradient checkpointing, then 4-bit weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trainer.planning.simulate import Setup, Step

CUDA_CONTEXT = 0.6 * 2**30  # bytes that CUDA, its libraries and bitsandbytes take before the first tensor
FRAGMENTATION = 0.06  # of the GPU's memory: blocks of the allocator that no tensor fits
LEAST_ROWS = 4  # below, a step's matrices are too small to be worth the whole weights' reading
MOST_ROWS = 256


class DoesNotFit(ValueError):
    """No settings fit; the message says what came closest."""


def usable(gpu_memory: float) -> float:
    """Bytes for tensors on a GPU of `gpu_memory` GiB."""
    return gpu_memory * 2**30 * (1 - FRAGMENTATION) - CUDA_CONTEXT


def fit(
    setup: Setup,
    gpu_memory: float,
    *,
    quantizations: list[str],
    checkpointing: list[bool],
    most_rows: int,
    simulate: Callable[[Setup], Step],
) -> tuple[Setup, Step]:
    """The first of the options that takes a batch of a useful size, else the one with the largest batch.

    Args:
        most_rows: no more are wanted.

    Raises:
        DoesNotFit: not even one row fits, with any of the options.
    """
    budget = usable(gpu_memory)
    best: tuple[Setup, Step] | None = None
    closest: Step | None = None
    for quantization in quantizations:
        for checkpoint in checkpointing:
            option = replace(setup, quantization=quantization, gradient_checkpointing=checkpoint)
            found, one = _largest(option, budget, most_rows, simulate)
            closest = min((s for s in (closest, one) if s), key=lambda step: step.peak)
            if found is None:
                continue
            if best is None or found[0].rows > best[0].rows:
                best = found
            if found[0].rows >= min(LEAST_ROWS, most_rows):
                return found
    if best is None:
        raise DoesNotFit(
            f"one row of {setup.row_tokens} tokens needs {closest.peak / 2**30:.2f} GiB, "
            f"{budget / 2**30:.2f} of {gpu_memory:g} GiB are usable: "
            f"take a smaller --max-tokens, --optimizer adamw8bit or a smaller --lora-rank"
        )
    return best


def _largest(
    setup: Setup, budget: float, most_rows: int, simulate: Callable[[Setup], Step]
) -> tuple[tuple[Setup, Step] | None, Step]:
    """The most rows that fit, with their step, or None; and the step of one row.

    A peak is the greatest of lines in the number of rows, so a line through two of them never overestimates it.
    """
    one = simulate(replace(setup, rows=1))
    if one.peak > budget:
        return None, one
    if most_rows == 1:
        return (replace(setup, rows=1), one), one
    low, low_peak = 1, one.peak
    high = min(8, most_rows)
    step = simulate(replace(setup, rows=high))
    slope = (step.peak - one.peak) / (high - 1)
    if step.peak <= budget:
        low, low_peak = high, step.peak
        high = min(most_rows, MOST_ROWS, int(high + (budget - step.peak) / max(slope, 1)))
    best = replace(setup, rows=low)
    known = {1: one, min(8, most_rows): step}
    while high > low:  # few rounds: the line is nearly the peak
        guess = min(high, max(low + 1, int(low + (budget - low_peak) / max(slope, 1))))
        known[guess] = step = simulate(replace(setup, rows=guess))
        if step.peak <= budget:
            if guess == high:
                return (replace(setup, rows=guess), step), one
            slope = (step.peak - one.peak) / (guess - 1)
            low, low_peak, best = guess, step.peak, replace(setup, rows=guess)
            if int(low + (budget - low_peak) / max(slope, 1)) <= low:
                break
        else:
            slope, high = (step.peak - one.peak) / (guess - 1), guess - 1
    return (best, known[low]), one
