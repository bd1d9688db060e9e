"""What an engine takes and gives: a request in, a `Generation` out that yields tokens as they come.

An engine computes in a thread of its own. Whatever one step made, for all requests together, crosses into
the event loop by one `call_soon_threadsafe` (`Outbox`), so that a token costs no thread hop of its own.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from torch import Tensor

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    Attributes:
        temperature: 0 is greedy.
        top_p: the nucleus (Holtzman et al. 2020), 1 is off.
        top_k: 0 is off.
        seed: the same seed gives the same choices whatever else is in the batch; None draws one.
        stop: strings that end the answer and are not part of it.
        repetition_penalty: divides positive and multiplies negative logits of tokens that the prompt's text
            or the answer already has (Keskar et al. 2019); 1 is off.
        presence_penalty: taken from the logits of tokens that the answer already has; 0 is off.
        frequency_penalty: the same, once for each time that the answer has the token; 0 is off.
        logprobs: how many of the likeliest tokens are reported at each place; 0 reports only the chosen one,
            None nothing.
        ignore_eos: go on after the end-of-text token, up to `max_new_tokens`; for load tests.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True)
class ImageInput:
    """One image, ready for the vision tower.

    Attributes:
        key: hash of the file's content; equal keys share their features.
        pixel_values: `[3, height, width]`, float32.
    """

    key: bytes
    pixel_values: Tensor


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt as `shared.prompt` encodes it, its images in the order of their slots, and how to sample."""

    input_ids: list[int]
    images: tuple[ImageInput, ...]
    sampling: SamplingParams

    @property
    def total_tokens(self) -> int:
        """Room that the request needs at most, in tokens."""
        return len(self.input_ids) + self.sampling.max_new_tokens


@dataclass(frozen=True)
class TokenEvent:
    """A token and the text that became final with it: whole characters, often none, sometimes several
    tokens' worth. The last event of a request has its `finish_reason`.

    Attributes:
        logprob: natural logarithm of the token's probability by the model alone, before penalties and
            temperature; None unless `SamplingParams.logprobs` asks for it.
        top_logprobs: the likeliest tokens, likeliest first, with theirs.
    """

    token_id: int
    text: str
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass
class Timings:
    """Seconds a request spent waiting, in the vision tower, until its first token, and after it."""

    queue: float = 0.0
    vision: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True)
class EngineStats:
    """Where an engine stands now."""

    waiting: int
    running: int
    cached_tokens: int
    """Tokens whose keys and values are held."""
    cache_capacity: int
    """Tokens for which memory is allocated."""
    prefix_tokens: int = 0
    """Tokens of past requests kept for those that begin alike."""


class RequestTooLarge(ValueError):
    """Prompt and answer together can never fit; the message, with the counts, is for the client."""


class EngineError(RuntimeError):
    """The engine failed at this request; the cause is in the log."""


@dataclass
class Generation:
    """A submitted request: iterate over it for its tokens; leave the `async with`, and it is cancelled.

    `cached_tokens` counts the prompt tokens that did not have to be computed anew; `on_cancel` is an engine's, for
    one that does not look at `cancelled` by itself.

    Raises `EngineError` from the iteration if the engine fails at it.
    """

    request: GenerationRequest
    seed: int = field(init=False)
    timings: Timings = field(default_factory=Timings)
    completion_tokens: int = 0
    cached_tokens: int = 0
    cancelled: bool = False
    on_cancel: Callable[[], None] | None = None
    submitted: float = field(default_factory=time.monotonic)
    _events: asyncio.Queue[TokenEvent | EngineError] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        seed = self.request.sampling.seed
        self.seed = secrets.randbits(63) if seed is None else seed

    def cancel(self) -> None:
        """Ask the engine to drop the request before its next step. After the end it does nothing."""
        self.cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        while True:
            event = await self._events.get()
            if isinstance(event, EngineError):
                raise event
            yield event
            if event.finish_reason:
                return


class Outbox:
    """Events of one step on their way from an engine's thread to the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: list[tuple[Generation, TokenEvent | EngineError]] = []

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def put(self, generation: Generation, event: TokenEvent | EngineError) -> None:
        self._events.append((generation, event))

    def flush(self) -> None:
        if not self._events:
            return
        events, self._events = self._events, []
        try:
            self._loop.call_soon_threadsafe(self._deliver, events)
        except RuntimeError:  # the loop is closed: nobody is left to read
            logger.debug("%d events dropped, the event loop is closed", len(events))

    @staticmethod
    def _deliver(events: list[tuple[Generation, TokenEvent | EngineError]]) -> None:
        for generation, event in events:
            generation._events.put_nowait(event)


class Engine(Protocol):
    """What the routes know of an engine. All methods are called on the event loop.

    Attributes:
        max_request_tokens: most tokens of prompt and answer together.
    """

    max_request_tokens: int

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the engine's thread; tokens are delivered on `loop`."""

    def stop(self) -> None:
        """Ends the thread; requests that still run get an `EngineError`."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request. Raises `RequestTooLarge`."""

    def stats(self) -> EngineStats: ...


def check_size(request: GenerationRequest, limit: int) -> None:
    """Raises `RequestTooLarge` if prompt and answer do not fit into `limit` tokens."""
    if request.total_tokens > limit:
        prompt, new = len(request.input_ids), request.sampling.max_new_tokens
        raise RequestTooLarge(
            f"The prompt has {prompt} tokens and max_new_tokens is {new}, together {prompt + new}; "
            f"at most {limit} fit. Shorten the prompt, send fewer images or ask for fewer tokens."
        )
