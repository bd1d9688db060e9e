"""POST /generate: a question about images, spoken or written, answered in text, at once or as a stream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.answer import Answer, generating
from service.api.dependencies import RuntimeDependency, deadline, while_connected
from service.api.forms import form_schema, read_form
from service.api.schemas import GenerateAnswer, GenerateFields, error_responses
from service.api.streaming import EventStream, server_sent_event
from service.auth import require_key
from service.errors import ApiError, bad_request
from service.pipeline import Media, Question, Turn, prepare
from service.runtime import Runtime
from service.settings import Settings

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
    of which the prompt or the audio must be there. What is said in the audio joins the prompt. A dialogue of
    several turns goes to POST /v1/chat/completions.

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
        (answer,) = await stack.enter_async_context(generating(runtime, prepared, ticket))
        if stream:
            return EventStream(_events(runtime, answer, begin), stack.pop_all())
        await while_connected(request, answer.finish())
        return JSONResponse(_done(runtime, answer))


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
    sampling = fields.params(
        settings, ("max_new_tokens", fields.max_new_tokens), fields.stop, fields.logprobs
    )
    turn = Turn(
        "user",
        fields.prompt,
        tuple(Media(data, "image") for data in files["image"]),
        () if audio is None else (Media(audio, "audio"),),
    )
    return Question((turn,), sampling), fields.stream


async def _events(runtime: Runtime, answer: Answer, begin: float) -> AsyncGenerator[str]:
    try:
        async with deadline(runtime.settings.request_timeout, since=begin):
            async for event in answer:
                if event.text:
                    yield server_sent_event("token", {"text": event.text})
    except ApiError as error:
        yield server_sent_event("error", error.body())
    else:
        yield server_sent_event("done", _done(runtime, answer))


def _done(runtime: Runtime, answer: Answer) -> dict[str, Any]:
    model = runtime.model
    return GenerateAnswer.of(answer, model.tokenizer, model.eos_token_ids).model_dump()
