"""Settings that fit a GPU's memory: the batch, then gradient checkpointing, then 4-bit weights.

Shallow copies of the model are simulated first: a step's peak grows by a line in the number of layers and by one in
the number of rows, so four small steps foretell the large one, which is then simulated in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from trainer.planning.model import architecture
from trainer.planning.simulate import Setup, Step

CUDA_CONTEXT = 0.6 * 2**30  # bytes that CUDA, its libraries and bitsandbytes take before the first tensor
FRAGMENTATION = 0.06  # of the GPU's memory: blocks of the allocator that no tensor fits
LEAST_ROWS = 4  # below, a step's matrices are too small to be worth reading all weights for
SHALLOW = (1, 2)  # layers
FEW, MANY = 1, 8  # rows


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
    least_rows: int,
    most_rows: int,
    simulate: Callable[[Setup], Step],
) -> tuple[Setup, Step]:
    """The first of the options that takes a batch of a useful size, else the one with the largest batch.

    Args:
        least_rows: of a useful size.
        most_rows: no more are wanted.

    Raises:
        DoesNotFit: not even one row fits, with any of the options.
    """
    budget = usable(gpu_memory)
    options = []
    for quantization in quantizations:
        for checkpoint in checkpointing:
            option = replace(setup, quantization=quantization, gradient_checkpointing=checkpoint)
            estimate = _estimate(option, simulate)
            rows = min(most_rows, estimate.rows_within(budget))
            options.append((rows, option, estimate.of(1)))
            found = _verified(option, rows, budget, simulate) if rows >= least_rows else None
            if found and found[0].rows >= least_rows:
                return found
    for rows, option, _ in sorted(options, key=lambda found: -found[0]):
        if rows and (found := _verified(option, rows, budget, simulate)):
            return found
    closest = min(one for _, _, one in options)
    raise DoesNotFit(
        f"one row of {setup.row_tokens} tokens needs {closest / 2**30:.2f} GiB at least, "
        f"{budget / 2**30:.2f} of {gpu_memory:g} GiB are usable: "
        f"take a smaller --max-tokens, --optimizer adamw8bit or a smaller --lora-rank"
    )


@dataclass(frozen=True)
class _Line:
    """Bytes at the peak as a line in the rows."""

    start: float
    slope: float

    def of(self, rows: int) -> float:
        return self.start + self.slope * rows

    def rows_within(self, budget: float) -> int:
        return max(0, int((budget - self.start) / max(self.slope, 1.0)))


def _estimate(setup: Setup, simulate: Callable[[Setup], Step]) -> _Line:
    layers = architecture(setup.model.language.source).num_hidden_layers

    def deep(rows: int) -> float:
        less, more = (simulate(replace(setup, rows=rows, layers=count)).peak for count in SHALLOW)
        return less + (more - less) / (SHALLOW[1] - SHALLOW[0]) * (layers - SHALLOW[0])

    few, many = deep(FEW), deep(MANY)
    slope = (many - few) / (MANY - FEW)
    return _Line(few - slope * FEW, slope)


def _verified(
    setup: Setup, rows: int, budget: float, simulate: Callable[[Setup], Step]
) -> tuple[Setup, Step] | None:
    """`rows`, or fewer where the whole model's step does not fit; None where one row does not."""
    while rows >= 1:
        found = replace(setup, rows=rows)
        step = simulate(found)
        if step.peak <= budget:
            return found, step
        rows = min(rows - 1, int(rows * budget / step.peak))
    return None
