"""Choosing the next token by a request's own penalties, temperature, nucleus and seed.

Scores are processed in float32 on the CPU, in the order of transformers' logits processors: penalties,
temperature, top-k, top-p. One uniform number a token, from a generator that belongs to the request alone,
then picks the token, so what else is in the batch has no influence.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from service.engine.interface import SamplingParams

NUCLEUS_GUESS = 256
"""Tokens among which a nucleus is looked for before the whole vocabulary is sorted."""


class Choice(NamedTuple):
    """A chosen token, with its log-probabilities as in `TokenEvent`."""

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Sampler:
    """The choices of one request.

    Args:
        prompt_ids: the prompt's tokens for the repetition penalty; negative ones are images and do not count.
    """

    def __init__(self, params: SamplingParams, seed: int, prompt_ids: Iterable[int] = ()) -> None:
        self._params = params
        self._generator = torch.Generator().manual_seed(seed)
        self._answer: Counter[int] = Counter()
        self._penalised = bool(params.presence_penalty or params.frequency_penalty)
        repeats = params.repetition_penalty != 1
        self._seen: set[int] | None = {token for token in prompt_ids if token >= 0} if repeats else None

    @property
    def plain(self) -> bool:
        """Whether the argmax of the logits is all that the request wants to know of them."""
        params = self._params
        greedy = params.temperature == 0 and params.logprobs is None
        return greedy and self._seen is None and not self._penalised

    def choose(self, logits: Tensor) -> Choice:
        """The next token for `logits`, `[vocabulary]`, which stay as they are."""
        logits = logits.detach().float().cpu()
        scores = self._penalise(logits)
        token = int(scores.argmax()) if self._params.temperature == 0 else self._draw(scores)
        self._answer[token] += 1
        if self._seen is not None:
            self._seen.add(token)
        return Choice(token, *self._logprobs(logits, token))

    def _penalise(self, logits: Tensor) -> Tensor:
        params = self._params
        if self._seen is None and not (self._penalised and self._answer):
            return logits
        scores = logits.clone()
        if self._seen:
            index = torch.tensor(list(self._seen))
            seen = scores[index]
            penalty = params.repetition_penalty
            scores[index] = torch.where(seen < 0, seen * penalty, seen / penalty)
        if self._penalised and self._answer:
            index = torch.tensor(list(self._answer))
            counts = torch.tensor(list(self._answer.values()), dtype=scores.dtype)
            scores[index] -= params.presence_penalty + params.frequency_penalty * counts
        return scores

    def _draw(self, scores: Tensor) -> int:
        params = self._params
        scores = scores / params.temperature
        tokens = None
        if params.top_k and params.top_k < scores.numel():
            scores, tokens = scores.topk(params.top_k)
        if params.top_p < 1:
            probabilities, tokens = _nucleus(scores, tokens, params.top_p)
        else:
            probabilities = scores.softmax(0)
        cumulative = probabilities.cumsum(0)
        place = torch.rand((), generator=self._generator) * cumulative[-1]
        choice = min(int(torch.searchsorted(cumulative, place, right=True)), len(cumulative) - 1)
        return choice if tokens is None else int(tokens[choice])

    def _logprobs(self, logits: Tensor, token: int) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        if (count := self._params.logprobs) is None:
            return None, ()
        logprobs = logits.log_softmax(0)
        values, tokens = logprobs.topk(min(count, logprobs.numel()))
        return float(logprobs[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True))


def _nucleus(scores: Tensor, tokens: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens whose probabilities first reach `top_p` together, at least one.

    Args:
        scores: sorted if `tokens` are given, else over the whole vocabulary.

    Returns:
        Their probabilities, not renormalised, and the tokens.
    """
    total = scores.logsumexp(0)
    if tokens is None:
        best, tokens = scores.topk(min(NUCLEUS_GUESS, scores.numel()))
        if (best - total).exp().sum() < top_p:
            best, tokens = scores.sort(descending=True)
        scores = best
    probabilities = (scores - total).exp()
    before = probabilities.cumsum(0) - probabilities
    count = max(1, int((before < top_p).sum()))
    return probabilities[:count], tokens[:count]
