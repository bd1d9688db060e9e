"""One request inside an engine: its sampler, its text so far, its clock."""

import time
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from service.engine.interface import FinishReason, Generation, TokenEvent
from service.engine.sampling import Choice, Sampler
from service.engine.text import TextStream


class Sequence:
    """The state of a request from its submission to its last token.

    Attributes:
        prompt_embeds: `[prompt_tokens, hidden]`; None while waiting and once computed.
        memory: the decoder's for this request, once admitted.
        length: tokens in it.
        block_hashes: of the prompt, see `prefix.block_hashes`.
        answer: tokens made so far; the newest is not yet in the memory.
    """

    def __init__(
        self, generation: Generation, tokenizer: PreTrainedTokenizerBase, eos_token_ids: tuple[int, ...]
    ) -> None:
        self.generation = generation
        self.request = generation.request
        self.sampler = Sampler(self.request.sampling, generation.seed, self.request.input_ids)
        self.prompt_embeds: Tensor | None = None
        self.memory: Any = None
        self.length = 0
        self.block_hashes: list[bytes] = []
        self.answer: list[int] = []
        self._text = TextStream(tokenizer, self.request.sampling.stop)
        self._eos_token_ids = () if self.request.sampling.ignore_eos else eos_token_ids
        self._mark = generation.submitted

    def lap(self) -> float:
        """Seconds since the last call, at first since the submission."""
        now = time.monotonic()
        passed, self._mark = now - self._mark, now
        return passed

    def accept(self, choice: Choice) -> TokenEvent:
        """Takes the next token; the event has a `finish_reason` if it was the last one."""
        token_id = choice.token_id
        generation = self.generation
        if generation.completion_tokens == 0:
            generation.timings.prefill = self.lap()
        generation.completion_tokens += 1
        self.answer.append(token_id)
        reason: FinishReason | None = None
        text = ""
        if token_id in self._eos_token_ids:
            reason = "stop"
        else:
            text = self._text.push(token_id)
            if self._text.stopped:
                reason = "stop"
            elif generation.completion_tokens >= self.request.sampling.max_new_tokens:
                reason = "length"
        if reason:
            text += self._text.flush()
            generation.timings.decode = self.lap()
            if self._text.stopped:
                reason = "stop"
        return TokenEvent(token_id, text, reason, choice.logprob, choice.top_logprobs)
