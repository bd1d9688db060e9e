"""Continuous batching: requests join and leave the running batch between two decode steps.

One thread repeats: drop what was cancelled, admit what fits, compute a chunk of waiting prompts, decode one
token for everyone who runs, and send the step's tokens to the event loop (iteration-level scheduling, Yu et
al. 2022, Orca; chunked prefill, Agrawal et al. 2023, Sarathi). The language model is transformers' own, fed
with `inputs_embeds`, per-row positions and a mask by row lengths over a `SlottedCache`, so any causal LM
with full or uniform sliding-window attention fits.

Greedy answers equal those of one request alone up to float rounding: exactly the same tokens in float32, and
almost always in bfloat16, where two nearly equal logits may change places with the batch.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from service.engine.cache import SlottedCache
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


class ContinuousEngine:
    """See the module. Slots `[0, running)` of the cache decode; those after them still compute their prompts.

    Args:
        max_batch_size: requests in the cache at once.
        max_context_tokens: prompt and answer of one request, in tokens.
        cache_tokens: budget of the cache: requests in it times the longest of them, in tokens.
        prefill_chunk_tokens: prompt tokens between two decode steps.
        images: encodes the images of a prompt.
        on_step: told how many requests shared each decode step; called in the engine's thread.
    """

    def __init__(
        self,
        model: MultimodalModel,
        images: ImageEncoder,
        *,
        max_batch_size: int,
        max_context_tokens: int,
        cache_tokens: int,
        prefill_chunk_tokens: int,
        on_step: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._model = model
        self._lm = model.causal_lm
        config = self._lm.config
        self._lm.set_attn_implementation("sdpa")  # takes the masks below on every device
        self._window = uniform_window(config)
        self._cache = SlottedCache(
            config.num_hidden_layers, max_slots=max_batch_size, max_tokens=cache_tokens
        )
        self._images = images
        self._max_batch_size = max_batch_size
        self.max_request_tokens = min(max_context_tokens, cache_tokens, stable_context(config))
        self._cache_tokens = cache_tokens
        self._chunk = prefill_chunk_tokens
        self._on_step = on_step
        self._outbox = Outbox()
        self._wake = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._slots: list[Sequence] = []  # _slots[i].slot == i
        self._running = 0
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
        return EngineStats(
            waiting=len(self._waiting),
            running=len(self._slots),
            cached_tokens=sum(sequence.length for sequence in tuple(self._slots)),
            cache_capacity=self._cache.slots * self._cache.capacity,
        )

    # ------------------------------------------------------------------------------ the engine's thread

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._waiting or self._slots)
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

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        self._prefill()
        self._decode()
        if not self._slots:
            self._cache.release()

    def _drop_cancelled(self) -> None:
        with self._wake:
            alive = [sequence for sequence in self._waiting if not sequence.generation.cancelled]
            self._waiting = deque(alive)
        for sequence in [sequence for sequence in self._slots if sequence.generation.cancelled]:
            self._leave(sequence)

    def _admit(self) -> None:
        """Moves waiting requests, in order, into free slots while the budget lasts."""
        joining: list[Sequence] = []
        longest = max((sequence.request.total_tokens for sequence in self._slots), default=0)
        num_images = 0
        while self._waiting and len(self._slots) + len(joining) < self._max_batch_size:
            request = self._waiting[0].request
            rows = len(self._slots) + len(joining) + 1
            longest = max(longest, request.total_tokens)
            num_images += len(request.images)
            too_many_images = joining and num_images > self._images.batch_size
            if rows * longest > self._cache_tokens or too_many_images:
                break
            with self._wake:
                joining.append(self._waiting.popleft())
        for sequence in joining:
            sequence.generation.timings.queue = sequence.lap()
        if joining:
            self._isolate(self._embed, joining)

    def _embed(self, sequences: list[Sequence]) -> None:
        """Prompts to embeddings, their images through the vision tower together."""
        image_embeds = self._images.encode(image for s in sequences for image in s.request.images)
        for sequence in sequences:
            sequence.prompt_embeds = embed_prompt(self._model, sequence.request, image_embeds)
        together = [*self._slots, *sequences]
        self._cache.reserve(len(together), max(sequence.request.total_tokens for sequence in together))
        for sequence in sequences:
            if sequence.request.images:
                sequence.generation.timings.vision = sequence.lap()
            sequence.slot = len(self._slots)
            self._slots.append(sequence)

    def _prefill(self) -> None:
        """Computes at most `prefill_chunk_tokens` of the oldest prompts, padding included."""
        prompts = sorted(self._slots[self._running :], key=lambda sequence: sequence.generation.submitted)
        if not prompts:
            return
        tokens = min(self._chunk, len(prompts[0].prompt_embeds) - prompts[0].length)
        self._isolate(self._prefill_chunk, prompts[: max(1, self._chunk // tokens)], tokens)

    def _prefill_chunk(self, sequences: list[Sequence], tokens: int) -> None:
        """Up to `tokens` prompt tokens of each of `sequences` in one pass, padded on the right."""
        chunks = [s.prompt_embeds[s.length : s.length + tokens] for s in sequences]
        inputs_embeds = torch.nn.utils.rnn.pad_sequence(chunks, batch_first=True)
        starts = torch.tensor([[s.length] for s in sequences], device=inputs_embeds.device)
        last = torch.tensor([[len(chunk) - 1] for chunk in chunks], device=inputs_embeds.device)
        index = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
        # Padding goes to the place behind its chunk, where the next token will overwrite it.
        positions = starts + torch.minimum(index, last + 1)
        logits = self._forward([s.slot for s in sequences], inputs_embeds, positions, last)
        greedy = logits.argmax(-1).tolist()
        for sequence, chunk, row, token in zip(sequences, chunks, logits, greedy, strict=True):
            sequence.length += len(chunk)
            if sequence.length == len(sequence.prompt_embeds):
                sequence.prompt_embeds = None
                self._promote(sequence)
                self._accept(sequence, row, token)

    def _decode(self) -> None:
        """One token for every running request."""
        rows = self._slots[: self._running]
        if not rows:
            return
        try:
            input_ids = torch.tensor([[s.last_token] for s in rows], device=self._model.device)
            positions = torch.tensor([[s.length] for s in rows], device=self._model.device)
            embeds = self._model.embed(input_ids)
            logits = self._forward(list(range(len(rows))), embeds, positions, torch.zeros_like(positions))
            greedy = logits.argmax(-1).tolist()
        except Exception:
            logger.exception("a decode step failed; its %d requests are given up", len(rows))
            for sequence in rows:
                self._give_up(sequence)
            return
        for sequence, row, token in zip(rows, logits, greedy, strict=True):
            sequence.length += 1
            self._accept(sequence, row, token)
        self._on_step(len(rows))

    def _forward(self, slots: list[int], inputs_embeds: Tensor, positions: Tensor, last: Tensor) -> Tensor:
        """Logits at index `last` `[rows, 1]` of each row, `[rows, vocabulary]`."""
        length = self._cache.select(slots, positions)
        seen = torch.arange(length, device=positions.device)
        visible = seen <= positions[..., None]
        if self._window:
            visible &= seen > positions[..., None] - self._window
        mask = torch.zeros(visible.shape, dtype=inputs_embeds.dtype, device=positions.device)
        mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        return self._lm(
            inputs_embeds=inputs_embeds,
            attention_mask=mask[:, None],
            position_ids=positions,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[:, 0]

    # ------------------------------------------------------------------------------------------- slots

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
            self._leave(sequence)

    def _promote(self, sequence: Sequence) -> None:
        """The prompt is computed: the sequence joins the running ones at the front."""
        other = self._slots[self._running]
        if other is not sequence:
            self._cache.swap(other.slot, sequence.slot)
            other.slot, sequence.slot = sequence.slot, other.slot
            self._slots[other.slot], self._slots[sequence.slot] = other, sequence
        self._running += 1

    def _leave(self, sequence: Sequence) -> None:
        """Frees a slot and closes the gap: with the last running sequence, then with the last of all."""
        hole = sequence.slot
        if hole < self._running:
            self._running -= 1
            hole = self._refill(hole, self._running)
        self._refill(hole, len(self._slots) - 1)
        self._slots.pop()

    def _refill(self, hole: int, source: int) -> int:
        if hole != source:
            self._cache.move(source, hole)
            self._slots[hole] = self._slots[source]
            self._slots[hole].slot = hole
        return source

    # --------------------------------------------------------------------------------------- failures

    def _isolate(self, work: Callable[..., None], sequences: list[Sequence], *args: int) -> None:
        """Runs `work` on all together; if that fails, on each alone, so that only the culprit fails."""
        try:
            work(sequences, *args)
        except Exception:
            logger.exception("%s failed for %d requests", work.__name__, len(sequences))
            if len(sequences) == 1:
                self._give_up(sequences[0])
                return
            for sequence in sequences:
                self._isolate(work, [sequence], *args)

    def _give_up(self, sequence: Sequence) -> None:
        self._outbox.put(sequence.generation, EngineError("the engine failed at this request"))
        if sequence.slot >= 0:
            self._leave(sequence)

    def _give_up_all(self) -> None:
        with self._wake:
            given_up = [*self._slots, *self._waiting]
            self._waiting.clear()
        self._slots.clear()
        self._running = 0
        self._cache.release()
        for sequence in given_up:
            self._outbox.put(sequence.generation, EngineError("the engine failed at this request"))


def stable_context(config: PreTrainedConfig) -> int:
    """Tokens over which position embeddings do not depend on the longest request of the batch: all that the
    model was made for, but for LongRoPE (Phi-3's long variants) only those before it changes its factors."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return config.max_position_embeddings
    return rope.get("original_max_position_embeddings") or config.original_max_position_embeddings


def uniform_window(config: PreTrainedConfig) -> int | None:
    """The sliding window that all layers of a language model share, in tokens; None for full attention.

    Raises:
        ValueError: its layers attend in different ways, which one mask cannot express.
    """
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if len(kinds) > 1:
        raise ValueError(
            f"the continuous engine cannot mix {', '.join(sorted(kinds))} layers; use the sequential engine"
        )
    return None if kinds == {"full_attention"} else window
