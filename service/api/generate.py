"""POST /generate: a question about images, spoken or written, answered in text, at once or as a stream."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from fastapi import APIRouter, Depends, Request, Response

from service.api.dependencies import RuntimeDependency, deadline, while_connected
from service.api.forms import form_schema, read_form
from service.api.schemas import (
    GenerateAnswer,
    GenerateFields,
    RequestTimings,
    Usage,
    error_responses,
)
from service.api.streaming import EventStream, server_sent_event
from service.auth import require_key
from service.engine.interface import EngineError, Generation, RequestTooLarge, SamplingParams
from service.errors import ApiError, bad_request, internal_error
from service.pipeline import Prepared, Question, prepare
from service.runtime import Runtime
from service.settings import Settings

logger = logging.getLogger(__name__)

STREAM_EXAMPLE = (
    'event: token\ndata: {"text": "A brown"}\n\n'
    'event: token\ndata: {"text": " dog."}\n\n'
    'event: done\ndata: {"id": "gen-8f14e45fceea4d6f", "text": "A brown dog.", ...}\n\n'
)

router = APIRouter(tags=["native"], dependencies=[Depends(require_key)])


@router.post(
    "/generate",
    summary="Answer a question about images, text or speech",
    response_model=GenerateAnswer,
    responses={
        200: {"content": {"text/event-stream": {"example": STREAM_EXAMPLE}}},
        **error_responses(),
    },
    openapi_extra=form_schema(
        GenerateFields,
        {
            "image": "JPEG, PNG or WebP files, in the order in which the model shall see them.",
            "audio": "A spoken question, or speech to ask about: WAV, FLAC, MP3, Ogg, M4A or WebM.",
        },
        several=frozenset({"image"}),
    ),
)
async def generate(request: Request, runtime: RuntimeDependency) -> Response:
    """Send a question as `multipart/form-data`: a `prompt`, any number of `image` files and one `audio` file,
    of which the prompt or the audio must be there. What is said in the audio joins the prompt.

    With `stream=true` the answer is server-sent events: `token` with the next piece of `text`, then `done`
    with the whole answer, or `error` with an error body.
    """
    runtime.require_ready()
    settings = runtime.settings
    begin = asyncio.get_running_loop().time()
    async with AsyncExitStack() as stack, deadline(settings.request_timeout, since=begin):
        ticket = stack.enter_context(runtime.admission.enter())
        question, stream = await _read_question(request, settings)
        prepared = await while_connected(request, prepare(runtime, question))
        ticket.reserve(prepared.request.total_tokens)
        try:
            generation = await stack.enter_async_context(runtime.engine.submit(prepared.request))
        except RequestTooLarge as error:
            raise bad_request(str(error), code="context_length_exceeded") from None
        answer = _Answer(request, runtime, prepared, generation)
        if stream:
            return EventStream(answer.events(begin), stack.pop_all())
        return await while_connected(request, answer.whole())


async def _read_question(request: Request, settings: Settings) -> tuple[Question, bool]:
    fields, files = await read_form(
        request,
        GenerateFields,
        {"image": settings.max_images, "audio": 1},
        max_text_bytes=settings.max_text_bytes,
    )
    audio = next(iter(files["audio"]), None)
    if not fields.prompt.strip() and audio is None:
        raise bad_request(
            "Nothing was asked: send a prompt, or audio with a spoken question.",
            param="prompt",
            code="no_prompt",
        )
    max_new_tokens = fields.max_new_tokens or min(settings.default_new_tokens, settings.max_new_tokens)
    if max_new_tokens > settings.max_new_tokens:
        raise bad_request(
            f"The field 'max_new_tokens' may be at most {settings.max_new_tokens}, not {max_new_tokens}.",
            param="max_new_tokens",
        )
    sampling = SamplingParams(
        max_new_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        seed=fields.seed,
        stop=tuple(fields.stop),
    )
    return Question(fields.prompt, files["image"], audio, sampling), fields.stream


class _Answer:
    """The answer of one generation, whole or in events."""

    def __init__(
        self, request: Request, runtime: Runtime, prepared: Prepared, generation: Generation
    ) -> None:
        self._id = f"gen-{uuid.uuid4().hex[:16]}"
        self._metrics = request.app.state.metrics
        self._runtime = runtime
        self._prepared = prepared
        self._generation = generation

    async def whole(self) -> GenerateAnswer:
        try:
            text, reason = "", None
            async for event in self._generation:
                text, reason = text + event.text, event.finish_reason
        except EngineError:
            raise internal_error() from None
        return self._done(text, reason)

    async def events(self, begin: float) -> AsyncGenerator[str]:
        text, reason = "", None
        try:
            async with deadline(self._runtime.settings.request_timeout, since=begin):
                async for event in self._generation:
                    text, reason = text + event.text, event.finish_reason
                    if event.text:
                        yield server_sent_event("token", {"text": event.text})
        except EngineError:
            yield server_sent_event("error", internal_error().body())
        except ApiError as error:
            yield server_sent_event("error", error.body())
        else:
            yield server_sent_event("done", self._done(text, reason).model_dump())

    def _done(self, text: str, reason: str) -> GenerateAnswer:
        prepared, generation = self._prepared, self._generation
        self._metrics.observe_generation(generation, prepared.image_tokens)
        timings = generation.timings
        return GenerateAnswer(
            id=self._id,
            model=self._runtime.model.config.name,
            text=text,
            transcript=prepared.transcript,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=len(prepared.request.input_ids),
                image_tokens=prepared.image_tokens,
                completion_tokens=generation.completion_tokens,
            ),
            timings=RequestTimings(
                queue_ms=_ms(timings.queue),
                transcribe_ms=_ms(prepared.transcribe_seconds),
                vision_ms=_ms(timings.vision),
                prefill_ms=_ms(timings.prefill),
                decode_ms=_ms(timings.decode),
            ),
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
