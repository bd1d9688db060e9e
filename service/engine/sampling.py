"""Choosing the next token by a request's own penalties, temperature, nucleus and seed.

Scores are processed in float32 on the CPU, in the order of transformers' logits processors: penalties,
temperature, top-k, top-p. The token is then the largest of score plus Gumbel noise, which draws from their softmax
(Gumbel 1954; Maddison et al. 2014). The noise is a hash of seed, place and token, so what else is in the batch has no
influence, and logits that differ in their last bits choose another token only where two are as good as equal.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.engine.interface import SamplingParams

NEGLIGIBLE = 25.0
"""Tokens that are less likely than the likeliest by more than this, in natural logarithms, are never drawn."""

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
        self._seed = seed
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
            scores, tokens = _nucleus(scores, tokens, params.top_p)
        if tokens is None:
            tokens = (scores > scores.max() - NEGLIGIBLE).nonzero()[:, 0]
            scores = scores[tokens]
        noise = _gumbel(self._seed, self._answer.total(), tokens.numpy())
        return int(tokens[int(np.argmax(scores.numpy() + noise))])

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
        Their scores and the tokens.
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
    return scores[:count], tokens[:count]


def _gumbel(seed: int, place: int, tokens: np.ndarray) -> np.ndarray:
    """Gumbel noise for each token, float64, the same for the same three."""
    start = _mix(_mix(np.array([seed], dtype=np.uint64)) + np.uint64(place))
    bits = _mix(start + tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(-np.log(uniform))


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele et al. 2014): every bit of a uint64 changes every bit of the result."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
