"""Watches tensors come and go: memory at its peak by part, and floating-point operations."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten


class StepTracker(TorchDispatchMode):
    """Every tensor storage that is made in the mode, from its birth to its death, and each operation's FLOP.

    It keeps no tensor alive, which FlopCounterMode's module hooks do.

    Attributes:
        flops: so far.
    """

    def __init__(self, vocabulary: int | None = None):
        super().__init__()
        self.flops = 0
        self._vocabulary = vocabulary
        self._storages: list[tuple[int, str]] = []  # bytes and part of each, by serial number
        self._events: list[tuple[int, int]] = []  # (+1 or -1, serial number), in order
        self._alive: dict[int, int] = {}  # storage's address -> serial number
        self._gradients: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.flops += _flops(func, args, kwargs, result)
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._born(tensor, str(func))
        return result

    def _born(self, tensor: Tensor, func: str) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._alive or not storage.nbytes():
            return
        serial = len(self._storages)
        part = "activations"
        if tensor.dim() and tensor.shape[-1] == self._vocabulary:
            part = "logits"
        elif func.startswith("aten.new_empty"):
            part = "dequantised weights"
        self._storages.append((storage.nbytes(), part))
        self._events.append((1, serial))
        self._alive[address] = serial
        weakref.finalize(storage, self._died, address, serial)

    def _died(self, address: int, serial: int) -> None:
        if self._alive.get(address) == serial:
            del self._alive[address]
            self._events.append((-1, serial))

    def note_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Which of the storages became parameters' gradients."""
        for gradient in gradients:
            self._gradients.add(self._alive.get(gradient.untyped_storage()._cdata, -1))

    def peak_parts(self) -> dict[str, int]:
        """Bytes by part at the moment when most were in use."""
        now = peak = at = 0
        for index, (sign, serial) in enumerate(self._events):
            now += sign * self._storages[serial][0]
            if now > peak:
                peak, at = now, index
        alive: set[int] = set()
        for sign, serial in self._events[: at + 1]:
            (alive.add if sign > 0 else alive.discard)(serial)
        parts = Counter()
        for serial in alive:
            parts[self._part(serial)] += self._storages[serial][0]
        return dict(parts)

    def most_of_parts(self) -> dict[str, int]:
        """Each part's own highest number of bytes, whenever that was."""
        now, most = Counter(), Counter()
        for sign, serial in self._events:
            part = self._part(serial)
            now[part] += sign * self._storages[serial][0]
            most[part] = max(most[part], now[part])
        return dict(most)

    def _part(self, serial: int) -> str:
        return "gradients" if serial in self._gradients else self._storages[serial][1]


def _flops(func, args: tuple, kwargs: dict, result) -> int:
    """By PyTorch's own formulas; the CPU's fused attention, which they lack, counts like the GPU's."""
    packet = func._overloadpacket
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=result)
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
    return 0
