"""The reference engine: transformers' own `generate(inputs_embeds=...)`, one request at a time.

Slow and plain on purpose: the continuous engine is tested against it, and it serves any model that the
continuous engine does not take.
"""

import asyncio
import logging
import threading
from collections import deque

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from service.engine.interface import (
    EngineError,
    EngineStats,
    Generation,
    GenerationRequest,
    Outbox,
    check_size,
)
from service.engine.sampling import Choice
from service.engine.sequence import Sequence
from service.engine.vision import ImageEncoder, embed_prompt
from shared.model import MultimodalModel

logger = logging.getLogger(__name__)


class _Choice(LogitsProcessor):
    """Leaves `generate` only the token that the request's own sampler chose."""

    def __init__(self, sequence: Sequence) -> None:
        self._sampler = sequence.sampler
        self.made = Choice(-1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.made = self._sampler.choose(scores[0])
        chosen = torch.full_like(scores, float("-inf"))
        chosen[0, self.made.token_id] = 0.0
        return chosen


class _Progress(StoppingCriteria):
    """Publishes each token and tells `generate` when to stop."""

    def __init__(self, sequence: Sequence, choice: _Choice, outbox: Outbox) -> None:
        self._sequence = sequence
        self._choice = choice
        self._outbox = outbox

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        generation = self._sequence.generation
        event = self._sequence.accept(self._choice.made)
        self._outbox.put(generation, event)
        self._outbox.flush()
        stop = event.finish_reason is not None or generation.cancelled
        return torch.tensor([stop], device=input_ids.device)


class SequentialEngine:
    """One request at a time, in the order they came.

    Args:
        images: encodes the images of a prompt.
        max_context_tokens: prompt and answer of one request, in tokens.
    """

    def __init__(self, model: MultimodalModel, images: ImageEncoder, *, max_context_tokens: int) -> None:
        self._model = model
        self._images = images
        self.max_request_tokens = min(max_context_tokens, model.context_length)
        self._outbox = Outbox()
        self._wake = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._current: Sequence | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._outbox.bind(loop)
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            if self._current:
                self._current.generation.cancel()
            self._wake.notify()
        self._thread.join()

    def submit(self, request: GenerationRequest) -> Generation:
        check_size(request, self.max_request_tokens)
        generation = Generation(request)
        with self._wake:
            self._waiting.append(Sequence(generation, self._model.tokenizer, self._model.eos_token_ids))
            self._wake.notify()
        return generation

    def stats(self) -> EngineStats:
        current = self._current
        tokens = current.request.total_tokens if current else 0
        return EngineStats(
            waiting=len(self._waiting),
            running=int(bool(current)),
            cached_tokens=tokens,
            cache_capacity=tokens,
        )

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._waiting)
                if self._stopping:
                    break
                self._current = self._waiting.popleft()
            try:
                self._generate(self._current)
            except Exception:
                logger.exception("generation failed for one request")
                self._give_up(self._current)
            self._current = None
        for sequence in self._waiting:
            self._give_up(sequence)

    def _generate(self, sequence: Sequence) -> None:
        generation, request = sequence.generation, sequence.request
        if generation.cancelled:
            return
        generation.timings.queue = sequence.lap()
        inputs_embeds = embed_prompt(self._model, request, self._images.encode(request.images))[None]
        if request.images:
            generation.timings.vision = sequence.lap()
        choice = _Choice(sequence)
        self._model.causal_lm.generate(
            inputs_embeds=inputs_embeds,
            attention_mask=torch.ones(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device),
            do_sample=False,
            max_new_tokens=request.sampling.max_new_tokens,
            # `_Progress` ends the answer; this id, which no token has, leaves `generate` no end of its own.
            eos_token_id=[self._model.causal_lm.config.vocab_size],
            pad_token_id=self._model.tokenizer.pad_token_id,
            logits_processor=[choice],
            stopping_criteria=[_Progress(sequence, choice, self._outbox)],
        )
        if self._stopping:
            self._give_up(sequence)

    def _give_up(self, sequence: Sequence) -> None:
        self._outbox.put(sequence.generation, EngineError("the engine failed at this request"))
        self._outbox.flush()
