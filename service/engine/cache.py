"""The slotted decoder's key/value cache: one slot a request, different lengths side by side.

A transformers `Cache` whose layers hold `[slots, kv_heads, capacity, head_dim]`, in memory that `reserve`
grows within a budget when a request joins. Before each forward pass `select` says which slots take part and
at which positions each writes; a model's own attention then gets the selected keys and values from `update`.
Where the selected slots are the first ones, they are a plain slice and nothing is copied.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK = 256
"""Tokens by which the capacity grows, where the budget allows."""


@dataclass
class _Selection:
    """What the next forward pass works on, shared by all layers."""

    slots: Tensor
    """Slot of each row, `[rows, 1]`."""
    positions: Tensor
    """Where each row writes, `[rows, tokens]`."""
    view: slice | Tensor
    """The same slots, as a slice where they are the first ones."""
    length: int
    """Tokens to attend over."""


class _SlottedLayer(CacheLayerMixin):
    def __init__(self) -> None:
        super().__init__()
        self.shape = (0, 0)
        self.selection: _Selection | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (self._allocate(states) for states in (key_states, value_states))
        self.is_initialized = True

    def _allocate(self, like: Tensor) -> Tensor:
        slots, capacity = self.shape
        # Zeros, since what is masked out must still be finite.
        return like.new_zeros((slots, like.shape[1], capacity, like.shape[3]))

    def resize(self, slots: int, capacity: int) -> None:
        self.shape = (slots, capacity)
        if self.is_initialized:
            for name in ("keys", "values"):
                old = getattr(self, name)
                new = self._allocate(old)
                rows, tokens = min(slots, old.shape[0]), min(capacity, old.shape[2])
                new[:rows, :, :tokens] = old[:rows, :, :tokens]
                setattr(self, name, new)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        chosen = self.selection
        self.keys[chosen.slots, :, chosen.positions] = key_states.transpose(1, 2)
        self.values[chosen.slots, :, chosen.positions] = value_states.transpose(1, 2)
        return self.keys[chosen.view, :, : chosen.length], self.values[chosen.view, :, : chosen.length]

    def move(self, source: int, target: int) -> None:
        if self.is_initialized:
            self.keys[target].copy_(self.keys[source])
            self.values[target].copy_(self.values[source])

    def swap(self, one: int, other: int) -> None:
        if self.is_initialized:
            pair, reverse = [one, other], [other, one]
            self.keys[pair] = self.keys[reverse]
            self.values[pair] = self.values[reverse]

    def release(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.shape = (0, 0)

    def get_seq_length(self) -> int:
        return self.selection.length - self.selection.positions.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.selection.length, 0

    def get_max_length(self) -> int:
        return self.shape[1]


class SlottedCache(Cache):
    """Keys and values of up to `max_slots` requests.

    Args:
        num_layers: layers of the language model.
        max_slots: requests side by side at most.
        max_tokens: slots times capacity at most.
    """

    def __init__(self, num_layers: int, *, max_slots: int, max_tokens: int) -> None:
        super().__init__(layers=[_SlottedLayer() for _ in range(num_layers)])
        self._max_slots = max_slots
        self._max_tokens = max_tokens
        self.slots = 0
        self.capacity = 0

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` requests of up to `length` tokens; `slots * length` is within the budget."""
        if slots <= self.slots and length <= self.capacity:
            return
        ahead = (min(self._max_slots, 2 * slots), -(-length // BLOCK) * BLOCK)
        sizes = [
            (max(self.slots, ahead[0]), max(self.capacity, ahead[1])),
            (max(self.slots, slots), max(self.capacity, length)),
        ]
        fitting = (size for size in sizes if size[0] * size[1] <= self._max_tokens)
        self.slots, self.capacity = next(fitting, (slots, length))
        for layer in self.layers:
            layer.resize(self.slots, self.capacity)

    def select(self, slots: list[int], positions: Tensor) -> int:
        """Choose the slots of the next forward pass.

        Args:
            slots: the slot of each row.
            positions: where each row writes, `[rows, tokens]`.

        Returns:
            The tokens that attention will see: the length that the attention mask must have.
        """
        length = int(positions.max()) + 1
        index = torch.tensor(slots, device=positions.device)
        first = slots == list(range(len(slots)))
        selection = _Selection(index[:, None], positions, slice(0, len(slots)) if first else index, length)
        for layer in self.layers:
            layer.selection = selection
        return length

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        for layer in self.layers:
            layer.move(source, target)

    def swap(self, one: int, other: int) -> None:
        """Exchange two slots."""
        for layer in self.layers:
            layer.swap(one, other)

    def save(self, slot: int, tokens: int) -> Tensor:
        """A copy of the first `tokens` of a slot, `[layers, 2, kv_heads, tokens, head_dim]`."""
        return torch.stack(
            [
                torch.stack([layer.keys[slot, :, :tokens], layer.values[slot, :, :tokens]])
                for layer in self.layers
            ]
        )

    def load(self, slot: int, saved: Tensor) -> None:
        """The beginning of a slot, from what `save` gave."""
        tokens = saved.shape[-2]
        for layer, (keys, values) in zip(self.layers, saved, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[slot, :, :tokens] = keys
            layer.values[slot, :, :tokens] = values

    def release(self) -> None:
        """Give all memory back."""
        self.slots = self.capacity = 0
        for layer in self.layers:
            layer.release()
