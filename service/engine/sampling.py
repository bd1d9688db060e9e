"""Choosing the next token by a request's own temperature, nucleus and seed."""

import torch
from torch import Tensor

from service.engine.interface import SamplingParams


class Sampler:
    """The choices of one request, from a random generator that belongs to it alone."""

    def __init__(self, params: SamplingParams, seed: int) -> None:
        self._params = params
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def greedy(self) -> bool:
        return self._params.temperature == 0

    def sample(self, logits: Tensor) -> int:
        """The next token for `logits`, `[vocabulary]`; greedy ones are the caller's argmax over its batch.

        Computed in float32 on the CPU, as temperature, then top-k, then top-p, the order of transformers.
        """
        scores = logits.detach().float().cpu() / self._params.temperature
        k = self._params.top_k or scores.numel()
        scores, tokens = scores.topk(min(k, scores.numel()))
        probabilities = scores.softmax(0)
        if self._params.top_p < 1:
            before = probabilities.cumsum(0) - probabilities
            probabilities = probabilities.masked_fill(before >= self._params.top_p, 0.0)
        choice = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(tokens[choice])
