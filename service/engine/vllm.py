"""Generation by a vLLM server: prompts become embeddings here and go there, tokens come back.

The server runs the merged language model (`python -m trainer export`) with `--enable-prompt-embeds`; see
`docs/serving.md` for its command. Stop strings, text and finish reasons are made here, by the same code as in
the other engines, so a request means the same on all of them. What the server draws with a seed is its own, and
its repetition penalty counts the answer alone, since it sees no prompt tokens.
"""

import asyncio
import base64
import io
import json
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import torch
from torch import Tensor

from service.engine.interface import (
    EngineError,
    EngineStats,
    Generation,
    GenerationRequest,
    Outbox,
    SamplingParams,
    TokenEvent,
    check_size,
)
from service.engine.sampling import Choice
from service.engine.sequence import Sequence
from service.engine.vision import ImageEncoder, embed_prompt
from shared.model import MultimodalModel

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 300.0
START_TIMEOUT = 600.0
"""Seconds that the server may take to load its model, while the service is not ready."""


class VllmUnavailable(RuntimeError):
    """The vLLM server does not answer, or not with what is needed; the message says what to do."""


class VllmEngine:
    """Requests run as tasks on the event loop; only embedding takes a thread.

    Args:
        images: encodes the images of a prompt.
        url: of the server, without `/v1`.
        max_context_tokens: prompt and answer of one request, in tokens.
    """

    def __init__(
        self,
        model: MultimodalModel,
        images: ImageEncoder,
        *,
        url: str,
        api_key: str | None = None,
        max_context_tokens: int,
    ) -> None:
        self._model = model
        self._images = images
        self.max_request_tokens = min(max_context_tokens, model.context_length)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            limits=httpx.Limits(max_connections=None),
        )
        self._served: str | None = None
        self._embedder = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._outbox = Outbox()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], Sequence] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outbox.bind(loop)

    def stop(self) -> None:
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._embedder.shutdown()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def submit(self, request: GenerationRequest) -> Generation:
        check_size(request, self.max_request_tokens)
        generation = Generation(request)
        sequence = Sequence(generation, self._model.tokenizer, self._model.eos_token_ids)
        task = asyncio.get_running_loop().create_task(self._answer(sequence))
        self._tasks[task] = sequence
        task.add_done_callback(self._tasks.pop)
        generation.on_cancel = task.cancel
        return generation

    def stats(self) -> EngineStats:
        running = [sequence for sequence in self._tasks.values() if sequence.answer]
        tokens = sum(len(s.request.input_ids) + len(s.answer) for s in running)
        return EngineStats(
            waiting=len(self._tasks) - len(running),
            running=len(running),
            cached_tokens=tokens,
            cache_capacity=tokens,
        )

    # ---------------------------------------------------------------------------------------- one request

    async def _answer(self, sequence: Sequence) -> None:
        generation = sequence.generation
        try:
            embeds = await asyncio.get_running_loop().run_in_executor(self._embedder, self._embed, sequence)
            async for choice in self._choices(sequence, embeds):
                event = sequence.accept(choice)
                self._send(generation, event)
                if event.finish_reason:
                    return  # closes the stream, and so aborts the request at the server
            raise VllmUnavailable("the server ended an answer early")
        except asyncio.CancelledError:
            if not generation.cancelled:
                self._send(generation, EngineError("the engine was stopped"))
            raise
        except Exception:
            logger.exception("a request to the vLLM server failed")
            self._send(generation, EngineError("the engine failed at this request"))

    def _send(self, generation: Generation, event: TokenEvent | EngineError) -> None:
        self._outbox.put(generation, event)
        self._outbox.flush()

    @torch.inference_mode()
    def _embed(self, sequence: Sequence) -> Tensor:
        sequence.generation.timings.queue = sequence.lap()
        request = sequence.request
        embeds = embed_prompt(self._model, request, self._images.encode(request.images))
        if request.images:
            sequence.generation.timings.vision = sequence.lap()
        return embeds

    async def _choices(self, sequence: Sequence, embeds: Tensor) -> AsyncIterator[Choice]:
        """The server's tokens while they come."""
        body = completion_body(sequence, await self._served_model(), embeds)
        if not sequence.request.sampling.ignore_eos:
            body["stop_token_ids"] = list(self._model.eos_token_ids)
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                detail = (await response.aread()).decode(errors="replace")[:500]
                raise VllmUnavailable(f"the server answered {response.status_code}: {detail}")
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    for choice in read_choices(
                        json.loads(line.removeprefix("data: ")), sequence.request.sampling
                    ):
                        yield choice

    async def _served_model(self) -> str:
        """The model's name at the server. Waits while the server starts."""
        give_up = time.monotonic() + START_TIMEOUT
        while self._served is None:
            try:
                response = await self._client.get("/v1/models")
                response.raise_for_status()
                card = response.json()["data"][0]
                limit = card.get("max_model_len") or self.max_request_tokens
                self.max_request_tokens = min(self.max_request_tokens, limit)
                self._served = card["id"]
            except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                if time.monotonic() > give_up:
                    raise VllmUnavailable(f"no vLLM server answers at {self._client.base_url}") from error
                logger.warning("waiting for the vLLM server at %s (%s)", self._client.base_url, error)
                await asyncio.sleep(5)
        return self._served


def completion_body(sequence: Sequence, model: str, embeds: Tensor) -> dict[str, Any]:
    """The body of vLLM's POST /v1/completions for a prompt of embeddings `[tokens, hidden]`."""
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(), buffer)
    sampling = sequence.request.sampling
    body = {
        "model": model,
        "prompt_embeds": base64.b64encode(buffer.getvalue()).decode(),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "ignore_eos": sampling.ignore_eos,
        "seed": sequence.generation.seed,
        "stream": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
    }
    if sampling.logprobs is not None:
        body["logprobs"] = sampling.logprobs
    return body


def read_choices(chunk: dict[str, Any], sampling: SamplingParams) -> list[Choice]:
    """The tokens of one chunk of a completion stream, which names tokens `token_id:NUMBER`."""
    choices = []
    for part in chunk.get("choices", ()):
        tokens, logprobs = part.get("token_ids") or (), part.get("logprobs")
        if not logprobs:
            choices += [Choice(token) for token in tokens]
            continue
        ranking = logprobs.get("top_logprobs") or [{}] * len(tokens)
        for token, chosen, best in zip(tokens, logprobs["token_logprobs"], ranking, strict=True):
            ranked = sorted((best or {}).items(), key=lambda item: -item[1])[: sampling.logprobs]
            pairs = tuple((int(name.removeprefix("token_id:")), value) for name, value in ranked)
            choices.append(Choice(token, chosen, pairs))
    return choices
