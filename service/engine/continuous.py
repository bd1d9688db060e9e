"""Continuous batching: requests join and leave the running batch between two steps.

One thread repeats: drop what was cancelled, admit what fits, then one pass over the next token of everyone who
runs and a chunk of the prompts that wait (iteration-level scheduling, Yu et al. 2022, Orca; chunked prefill,
Agrawal et al. 2023, Sarathi), and send the step's tokens to the event loop. The pass itself is a `Decoder`'s.

Greedy answers equal those of one request alone up to float rounding: exactly the same tokens in float32; in
bfloat16 two nearly equal logits may change places with the batch where transformers computes, and not where the
native decoder does, whose rows do not depend on each other.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from service.engine.context import stable_context
from service.engine.decoder import BLOCK, Decoder, Span
from service.engine.interface import (
    EngineError,
    EngineStats,
    Generation,
    GenerationRequest,
    Outbox,
    check_size,
)
from service.engine.prefix import PrefixCache, block_hashes
from service.engine.sampling import Choice
from service.engine.sequence import Sequence
from service.engine.vision import ImageEncoder, embed_prompt
from shared.model import MultimodalModel

logger = logging.getLogger(__name__)


class ContinuousEngine:
    """See the module.

    Args:
        images: encodes the images of a prompt.
        decoder: computes the language model; the engine closes it.
        max_batch_size: requests with memory at once.
        max_context_tokens: prompt and answer of one request, in tokens.
        cache_tokens: budget for keys and values of the requests with memory, in tokens.
        prefix_cache_tokens: tokens of past prompts and answers whose keys and values are kept besides.
        prefill_chunk_tokens: prompt tokens in one step at most.
        on_step: told how many requests got a token in each step; called in the engine's thread.
    """

    def __init__(
        self,
        model: MultimodalModel,
        images: ImageEncoder,
        decoder: Decoder,
        *,
        max_batch_size: int,
        max_context_tokens: int,
        cache_tokens: int,
        prefill_chunk_tokens: int,
        prefix_cache_tokens: int = 0,
        on_step: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._model = model
        self._images = images
        self._decoder = decoder
        self._max_batch_size = max_batch_size
        context = stable_context(model.causal_lm.config)
        self.max_request_tokens = min(max_context_tokens, cache_tokens // BLOCK * BLOCK, context)
        self._cache_tokens = cache_tokens
        self._chunk = prefill_chunk_tokens
        self._prefixes = PrefixCache(prefix_cache_tokens)
        self._on_step = on_step
        self._outbox = Outbox()
        self._wake = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []  # with memory, in the order of their admission
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._outbox.bind(loop)
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def submit(self, request: GenerationRequest) -> Generation:
        check_size(request, self.max_request_tokens)
        generation = Generation(request)
        sequence = Sequence(generation, self._model.tokenizer, self._model.eos_token_ids)
        with self._wake:
            self._waiting.append(sequence)
            self._wake.notify()
        return generation

    def stats(self) -> EngineStats:
        active = tuple(self._active)
        return EngineStats(
            waiting=len(self._waiting),
            running=len(active),
            cached_tokens=sum(sequence.length for sequence in active),
            cache_capacity=self._decoder.capacity,
            prefix_tokens=self._prefixes.tokens,
        )

    # ------------------------------------------------------------------------------ the engine's thread

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._waiting or self._active)
                if self._stopping:
                    break
            try:
                self._step()
            except Exception:
                logger.exception("an engine step failed; the requests in it are given up")
                self._give_up_all()
            self._outbox.flush()
        self._give_up_all()
        self._outbox.flush()
        self._decoder.close()

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        work = self._next_work()
        if work:
            self._compute(work)

    def _drop_cancelled(self) -> None:
        if any(sequence.generation.cancelled for sequence in tuple(self._waiting)):
            with self._wake:
                alive = [sequence for sequence in self._waiting if not sequence.generation.cancelled]
                self._waiting = deque(alive)
        for sequence in [sequence for sequence in self._active if sequence.generation.cancelled]:
            self._leave(sequence)

    # --------------------------------------------------------------------------------------- admission

    def _admit(self) -> None:
        """Gives memory to waiting requests, in order, while the budget lasts."""
        joining: list[Sequence] = []
        lengths = [sequence.request.total_tokens for sequence in self._active]
        num_images = 0
        while self._waiting and len(lengths) < self._max_batch_size:
            request = self._waiting[0].request
            lengths.append(request.total_tokens)
            num_images += len(request.images)
            too_many_images = joining and num_images > self._images.batch_size
            if self._decoder.footprint(lengths) > self._cache_tokens or too_many_images:
                break
            with self._wake:
                joining.append(self._waiting.popleft())
        for sequence in joining:
            sequence.generation.timings.queue = sequence.lap()
        self._embed(joining)
        for sequence in joining:
            if sequence.prompt_embeds is not None:
                self._place(sequence)

    def _embed(self, sequences: list[Sequence]) -> None:
        """Prompts to embeddings, their images through the vision tower together."""
        try:
            image_embeds = self._images.encode(image for s in sequences for image in s.request.images)
            embeds = [embed_prompt(self._model, s.request, image_embeds) for s in sequences]
        except Exception:
            self._retry_alone(self._embed, sequences)
            return
        for sequence, prompt_embeds in zip(sequences, embeds, strict=True):
            sequence.prompt_embeds = prompt_embeds
            if sequence.request.images:
                sequence.generation.timings.vision = sequence.lap()

    def _place(self, sequence: Sequence) -> None:
        try:
            sequence.memory = self._decoder.allocate(sequence.request.total_tokens)
            self._active.append(sequence)
            self._reuse_prefix(sequence)
        except Exception:
            logger.exception("one request could not be given memory, or what is kept of its beginning")
            self._give_up(sequence)

    def _reuse_prefix(self, sequence: Sequence) -> None:
        """Loads what is known of the prompt, but for its last token, whose logits are needed."""
        prompt = len(sequence.request.input_ids)
        sequence.block_hashes = block_hashes(sequence.request)
        tokens, saved = self._prefixes.find(sequence.block_hashes[: (prompt - 1) // BLOCK])
        if tokens:
            self._decoder.load(sequence.memory, saved, tokens)
            sequence.length = tokens
            sequence.generation.cached_tokens = tokens

    def _keep_prefix(self, sequence: Sequence, hashes: list[bytes]) -> None:
        if not self._prefixes.wants(hashes):
            return
        try:
            saved = self._decoder.save(sequence.memory, len(hashes) * BLOCK)
        except Exception:  # most likely no memory; no answer depends on it
            logger.exception("a prefix could not be kept")
            return
        self._prefixes.add(hashes, saved)

    # -------------------------------------------------------------------------------------- computation

    def _next_work(self) -> list[tuple[Sequence, int]]:
        """Who computes how many tokens in the next pass: one for each that runs, a chunk of the oldest prompts."""
        work, budget = [], self._chunk
        for sequence in self._active:
            if sequence.prompt_embeds is None:
                work.append((sequence, 1))
            elif budget:
                count = min(budget, len(sequence.prompt_embeds) - sequence.length)
                work.append((sequence, count))
                budget -= count
        return work

    def _compute(self, work: list[tuple[Sequence, int]]) -> None:
        try:
            logits = self._forward(work)
            greedy = logits.argmax(-1).tolist()
        except Exception:
            self._retry_alone(self._compute, work)
            return
        rows = iter(zip(logits, greedy, strict=True))
        for sequence, count in work:
            sequence.length += count
            if sequence.prompt_embeds is not None:
                if sequence.length < len(sequence.prompt_embeds):
                    continue
                sequence.prompt_embeds = None
                self._keep_prefix(sequence, sequence.block_hashes)
            self._accept(sequence, *next(rows))
        if greedy:
            self._on_step(len(greedy))

    def _forward(self, work: list[tuple[Sequence, int]]) -> Tensor:
        """Logits `[sequences that get a token, vocabulary]`."""
        running = [sequence.answer[-1] for sequence, _ in work if sequence.prompt_embeds is None]
        decoded = iter(self._embed_tokens(running).split(1))
        chunks, spans = [], []
        for sequence, count in work:
            start, prompt = sequence.length, sequence.prompt_embeds
            chunks.append(next(decoded) if prompt is None else prompt[start : start + count])
            wanted = prompt is None or start + count == len(prompt)
            spans.append(Span(sequence.memory, start, count, wanted))
        return self._decoder.forward(torch.cat(chunks), spans)

    def _embed_tokens(self, tokens: list[int]) -> Tensor:
        """`[tokens, hidden]`; no image slot is among answers' tokens, so `embed` need not look for one."""
        embedding = self._model.causal_lm.get_input_embeddings()
        return embedding(torch.tensor(tokens, dtype=torch.long, device=embedding.weight.device))

    def _accept(self, sequence: Sequence, logits: Tensor, greedy: int) -> None:
        """The next token of one request, from its `logits` `[vocabulary]` and their argmax."""
        try:
            sampler = sequence.sampler
            event = sequence.accept(Choice(greedy) if sampler.plain else sampler.choose(logits))
        except Exception:
            logger.exception("sampling failed for one request")
            self._give_up(sequence)
            return
        self._outbox.put(sequence.generation, event)
        if event.finish_reason:
            hashes = block_hashes(sequence.request, sequence.answer)
            self._keep_prefix(sequence, hashes[: sequence.length // BLOCK])
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._active.remove(sequence)
        self._decoder.free(sequence.memory)

    # --------------------------------------------------------------------------------------- failures

    def _retry_alone(self, step: Callable[[list], None], items: list) -> None:
        """After `step` failed for all of `items`: each by itself, so that only the culprit is given up."""
        logger.exception("%s failed for %d requests", step.__name__, len(items))
        if len(items) > 1:
            for item in items:
                step([item])
        else:
            self._give_up(items[0][0] if isinstance(items[0], tuple) else items[0])

    def _give_up(self, sequence: Sequence) -> None:
        self._outbox.put(sequence.generation, EngineError("the engine failed at this request"))
        if sequence in self._active:
            self._leave(sequence)

    def _give_up_all(self) -> None:
        with self._wake:
            given_up = [*self._active, *self._waiting]
            self._waiting.clear()
        for sequence in given_up:
            self._give_up(sequence)
