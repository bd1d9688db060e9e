"""transformers' own forward pass as a decoder: any causal LM with full or uniform sliding-window attention.

The model gets `inputs_embeds`, per-row positions and a mask by row lengths over a `SlottedCache`. Sequences that
decode keep the first slots, so that a decode step reads a plain slice of the cache and copies nothing.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.engine.cache import SlottedCache
from service.engine.context import uniform_window
from service.engine.decoder import Span


class Slot:
    """Memory of one sequence: its place in the cache, which may change."""

    def __init__(self, index: int, tokens: int) -> None:
        self.index = index
        self.tokens = tokens


class SlottedDecoder:
    """See the module.

    Args:
        max_slots: sequences side by side at most.
        max_tokens: budget of the cache: slots times the longest sequence.

    Raises:
        ValueError: the model's layers attend in different ways.
    """

    def __init__(self, lm: PreTrainedModel, *, max_slots: int, max_tokens: int) -> None:
        self._lm = lm
        self._lm.set_attn_implementation("sdpa")  # takes the masks below on every device
        self._window = uniform_window(lm.config)
        self._cache = SlottedCache(lm.config.num_hidden_layers, max_slots=max_slots, max_tokens=max_tokens)
        self._slots: list[Slot] = []

    @property
    def capacity(self) -> int:
        return self._cache.slots * self._cache.capacity

    def footprint(self, lengths: list[int]) -> int:
        return len(lengths) * max(lengths, default=0)

    def allocate(self, tokens: int) -> Slot:
        longest = max([tokens, *(slot.tokens for slot in self._slots)])
        self._cache.reserve(len(self._slots) + 1, longest)
        self._slots.append(Slot(len(self._slots), tokens))
        return self._slots[-1]

    def free(self, memory: Slot) -> None:
        last = self._slots.pop()
        if last is not memory:
            self._cache.move(last.index, memory.index)
            self._slots[memory.index] = last
            last.index = memory.index
        if not self._slots:
            self._cache.release()

    def save(self, memory: Slot, tokens: int) -> Tensor:
        return self._cache.save(memory.index, tokens)

    def load(self, memory: Slot, saved: Tensor, tokens: int) -> None:
        self._cache.load(memory.index, saved[..., :tokens, :])

    def close(self) -> None:
        self._slots.clear()
        self._cache.release()

    def forward(self, inputs_embeds: Tensor, spans: list[Span]) -> Tensor:
        chunks = inputs_embeds.split([span.count for span in spans])
        self._bring_forward([span.memory for span in spans if span.count == 1])
        logits: dict[int, Tensor] = {}
        for group in _groups(spans):
            rows = self._compute([spans[i] for i in group], [chunks[i] for i in group])
            logits.update(zip(group, rows, strict=True))
        wanted = [logits[i] for i, span in enumerate(spans) if span.wanted]
        return torch.stack(wanted) if wanted else inputs_embeds.new_empty(0, self._lm.config.vocab_size)

    def _bring_forward(self, decoding: list[Slot]) -> None:
        """Exchanges slots until `decoding` are the first ones."""
        chosen = set(decoding)
        others = [slot for slot in self._slots[: len(decoding)] if slot not in chosen]
        for slot in [slot for slot in decoding if slot.index >= len(decoding)]:
            other = others.pop()
            self._cache.swap(slot.index, other.index)
            slot.index, other.index = other.index, slot.index
            self._slots[slot.index], self._slots[other.index] = slot, other

    def _compute(self, spans: list[Span], chunks: list[Tensor]) -> list[Tensor]:
        """Logits at the end of each span, in one pass, chunks padded on the right."""
        order = sorted(range(len(spans)), key=lambda i: spans[i].memory.index)
        inputs_embeds = torch.nn.utils.rnn.pad_sequence([chunks[i] for i in order], batch_first=True)
        device = inputs_embeds.device
        starts = torch.tensor([[spans[i].start] for i in order], device=device)
        last = torch.tensor([[spans[i].count - 1] for i in order], device=device)
        # Padding goes to the place behind its chunk, where the next token will overwrite it.
        positions = starts + torch.minimum(torch.arange(inputs_embeds.shape[1], device=device), last + 1)
        length = self._cache.select([spans[i].memory.index for i in order], positions)
        logits = self._lm(
            inputs_embeds=inputs_embeds,
            attention_mask=self._mask(length, positions, inputs_embeds.dtype),
            position_ids=positions,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[:, 0]
        place = {i: row for row, i in enumerate(order)}
        return [logits[place[i]] for i in range(len(spans))]

    def _mask(self, length: int, positions: Tensor, dtype: torch.dtype) -> Tensor:
        seen = torch.arange(length, device=positions.device)
        visible = seen <= positions[..., None]
        if self._window:
            visible &= seen > positions[..., None] - self._window
        mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _groups(spans: list[Span]) -> list[list[int]]:
    """Indices of spans that share a pass: single tokens, then chunks of which none is half padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(spans)), key=lambda i: spans[i].count):
        smallest = spans[groups[-1][0]].count if groups else 0
        if groups and spans[i].count <= (2 * smallest if smallest > 1 else 1):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
