"""How fast a run is: tokens per second, the share of time spent waiting for data, MFU, peak memory.

MFU (Chowdhery et al. 2022, PaLM) is the model's arithmetic, not counting what gradient checkpointing computes
again, over what the device could do: a data sheet's figure for a known GPU, a measured matrix product on a CPU.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn

from shared.model import MultimodalModel

T = TypeVar("T")

# Dense bf16 FLOP/s without sparsity, from NVIDIA's data sheets
GPU_PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "A10G": 70e12, "A10": 125e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


def training_flops_per_token(model: MultimodalModel) -> float:
    """Floating-point operations of one token, forward and backward, without attention's own.

    2 per weight in the forward pass, 2 for the gradient of the input, and 2 for that of a weight that learns.
    `lm_head` and the projector are left out: they see few of the tokens.
    """
    frozen = learning = 0
    for module in model.causal_lm.get_decoder().modules():
        if isinstance(module, nn.Linear):
            weights = module.in_features * module.out_features
            learns = module.weight.requires_grad
            learning, frozen = learning + weights * learns, frozen + weights * (not learns)
    return 4.0 * frozen + 6.0 * learning


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that `device` can do at best; None for a GPU without an entry."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((flops for key, flops in GPU_PEAKS.items() if all(p in name for p in key.split())), None)
    size = 1024
    matrix = torch.ones(size, size, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or of this process where it computes on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Counts between two log lines."""

    def __init__(self, model: MultimodalModel, processes: int):
        self._flops = training_flops_per_token(model)
        self._device = model.device
        peak = peak_flops(model.device, model.dtype)
        self._peak = peak * processes if peak else None
        self.restart()

    def restart(self) -> None:
        """Begin anew: what happened since the last log line, as a validation, does not count."""
        self._started, self._waited, self._labels, self._tokens = time.perf_counter(), 0.0, 0, 0

    def waits(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, the time until each counted as waiting for data."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    def count(self, labels: int, tokens: int) -> None:
        """One optimizer step done."""
        self._labels += labels
        self._tokens += tokens

    def read(self) -> dict[str, float]:
        """Rates since the last reading."""
        seconds = time.perf_counter() - self._started
        rates = {
            "tokens_per_second": self._tokens / seconds,
            "labels_per_second": self._labels / seconds,
            "data_share": self._waited / seconds,
            "memory_gib": peak_memory(self._device) / 2**30,
        }
        if self._peak:
            rates["mfu"] = self._tokens * self._flops / seconds / self._peak
        self.restart()
        return rates
