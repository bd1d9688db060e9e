"""What computes the language model for the continuous engine: one pass over new tokens of any sequences.

`native.decoder` (C++, on CPUs) and `slotted` (transformers: any causal LM, any device) fit this protocol, and
`load_decoder` chooses between them.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

BLOCK = 16
"""Tokens that are saved and loaded together."""


@dataclass(frozen=True)
class Span:
    """Consecutive new tokens of one sequence: `count` of them from position `start`.

    Attributes:
        memory: the sequence's, from `Decoder.allocate`.
        wanted: whether the logits of the last token are.
    """

    memory: Any
    start: int
    count: int
    wanted: bool


class Decoder(Protocol):
    """A causal language model with memory for keys and values. All calls come from one thread."""

    @property
    def capacity(self) -> int:
        """Tokens for which memory is allocated."""

    def footprint(self, lengths: list[int]) -> int:
        """Tokens of memory that sequences of up to these lengths take together."""

    def allocate(self, tokens: int) -> Any:
        """Memory for a sequence of up to `tokens`."""

    def free(self, memory: Any) -> None: ...

    def save(self, memory: Any, tokens: int) -> Any:
        """A copy of the first `tokens`, a multiple of `BLOCK`."""

    def load(self, memory: Any, saved: Any, tokens: int) -> None:
        """The first `tokens`, a multiple of `BLOCK`, from what was saved."""

    def forward(self, inputs_embeds: Tensor, spans: list[Span]) -> Tensor:
        """Computes the spans' tokens, `[tokens, hidden]` one span after another.

        Returns:
            Logits `[wanted spans, vocabulary]`. After an error, the same call may be made again.
        """

    def close(self) -> None: ...
