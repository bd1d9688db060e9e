"""Answers while they are generated: the one way from a prepared question to text, whatever form it leaves in."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from service.admission import Ticket
from service.engine.interface import (
    EngineError,
    FinishReason,
    Generation,
    GenerationRequest,
    RequestTooLarge,
    TokenEvent,
)
from service.errors import bad_request, internal_error
from service.pipeline import Prepared
from service.runtime import Runtime


class Answer:
    """One answer in the making; iterate over it, once, for its tokens.

    Attributes:
        text: what is there so far, then the whole of it.
        tokens: the tokens so far, where log-probabilities were asked for.
        finish_reason: None until the end.
    """

    def __init__(self, runtime: Runtime, prepared: Prepared, generation: Generation) -> None:
        self.id = uuid.uuid4().hex[:24]
        self.model = runtime.model.config.name
        self.prepared = prepared
        self.generation = generation
        self.text = ""
        self.tokens: list[TokenEvent] = []
        self.finish_reason: FinishReason | None = None
        self._on_answer = runtime.on_answer

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Raises `ApiError` 500 if the engine fails at it."""
        try:
            async for event in self.generation:
                self.text += event.text
                if event.logprob is not None:
                    self.tokens.append(event)
                if event.finish_reason:
                    self.finish_reason = event.finish_reason
                    self._on_answer(self.generation, self.prepared.image_tokens)
                yield event
        except EngineError:
            raise internal_error() from None

    async def finish(self) -> None:
        """Waits for the end. Raises `ApiError` 500 if the engine fails at it."""
        async for _ in self:
            pass


@asynccontextmanager
async def generating(
    runtime: Runtime, prepared: Prepared, ticket: Ticket, *, n: int = 1, param: str | None = None
) -> AsyncIterator[list[Answer]]:
    """Has the engine generate `n` answers to a question; leaving the context cancels what still runs.

    The first answer uses the request's seed, each further one the next number, so that they differ.

    Args:
        param: the field that holds the question, for the message that it is too long.

    Raises:
        ApiError: 400 if question and answer do not fit, 429 if the service has too many tokens in progress.
    """
    ticket.reserve(prepared.request.total_tokens * n)
    async with AsyncExitStack() as stack:
        answers = []
        for index in range(n):
            try:
                generation = runtime.engine.submit(_with_next_seed(prepared.request, index))
            except RequestTooLarge as error:
                raise bad_request(str(error), param=param, code="context_length_exceeded") from None
            answers.append(Answer(runtime, prepared, await stack.enter_async_context(generation)))
        yield answers


def _with_next_seed(request: GenerationRequest, index: int) -> GenerationRequest:
    seed = request.sampling.seed
    if seed is None or index == 0:
        return request
    return replace(request, sampling=replace(request.sampling, seed=(seed + index) % 2**63))


async def interleaved(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, TokenEvent]]:
    """The tokens of several answers as they come, each with the index of its answer.

    Raises:
        ApiError: 500 as soon as the engine fails at one of them.
    """
    ready: asyncio.Queue[tuple[int, TokenEvent] | None] = asyncio.Queue()

    async def read(index: int) -> None:
        async for event in answers[index]:
            ready.put_nowait((index, event))

    everything = asyncio.gather(*(read(index) for index in range(len(answers))))
    everything.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        while (token := await ready.get()) is not None:
            yield token
        await everything
    finally:
        everything.cancel()
        await asyncio.gather(everything, return_exceptions=True)
