"""POST /v1/chat/completions: a dialogue with images and speech, answered as OpenAI's API answers it."""

import asyncio
from contextlib import AsyncExitStack

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.answer import generating
from service.api.dependencies import RuntimeDependency, deadline, while_connected
from service.api.json_body import json_schema, read_json
from service.api.schemas import ErrorBody, error_responses
from service.api.streaming import EventStream
from service.api.v1.completions import ChatCompletion, Completion
from service.api.v1.dialogue import turns
from service.api.v1.models import require_model
from service.api.v1.requests import ChatRequest, StreamOptions, refuse_unsupported
from service.auth import require_key
from service.pipeline import Prepared, Question, prepare
from service.runtime import Runtime

STREAM_EXAMPLE = (
    'data: {"id": "chatcmpl-8f14", "object": "chat.completion.chunk", "created": 1764000000, '
    '"model": "embedded", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, '
    '"logprobs": null, "finish_reason": null}]}\n\n'
    'data: {..., "choices": [{"index": 0, "delta": {"content": "Paris"}, ...}]}\n\n'
    'data: {..., "choices": [{"index": 0, "delta": {}, ..., "finish_reason": "stop"}]}\n\n'
    "data: [DONE]\n\n"
)

router = APIRouter(tags=["OpenAI-compatible"], dependencies=[Depends(require_key)])


@router.post(
    "/v1/chat/completions",
    summary="Answer a dialogue",
    response_model=ChatCompletion,
    responses={
        200: {"content": {"text/event-stream": {"example": STREAM_EXAMPLE}}},
        **error_responses(),
        404: {"model": ErrorBody, "description": "There is no such model."},
    },
    openapi_extra=json_schema(ChatRequest),
)
async def chat_completions(request: Request, runtime: RuntimeDependency) -> Response:
    """OpenAI's chat completions for its clients: text, `image_url` and `input_audio` parts in the user's
    messages, several images anywhere in the dialogue, `stream`, `n`, `stop`, `logprobs` and the penalties.
    Answers are greedy unless `temperature` says otherwise. What is said in audio joins the message's text.

    Within a message the images come first, then what is said in the audio, then the text, which is the order
    that the model learned. With `stream: true` an error in mid-answer comes as a last event with an error
    body. Tools, JSON schemas and spoken answers are refused with a 400 whose `param` names them.
    """
    runtime.require_ready()
    timeout = runtime.settings.request_timeout
    begin = asyncio.get_running_loop().time()
    async with AsyncExitStack() as stack, deadline(timeout, since=begin):
        ticket = stack.enter_context(runtime.admission.enter())
        chat = await read_json(request, ChatRequest, refuse_unsupported)
        require_model(runtime, chat.model)
        prepared = await while_connected(request, _prepare(runtime, chat))
        answers = await stack.enter_async_context(
            generating(runtime, prepared, ticket, n=chat.n, param="messages")
        )
        completion = Completion(runtime, answers, chat.stream_options or StreamOptions())
        if chat.stream:
            return EventStream(completion.chunks(begin), stack.pop_all())
        return JSONResponse((await while_connected(request, completion.whole())).model_dump())


async def _prepare(runtime: Runtime, chat: ChatRequest) -> Prepared:
    settings = runtime.settings
    limit = ("max_completion_tokens", chat.max_completion_tokens)
    if chat.max_tokens is not None:
        limit = ("max_tokens", chat.max_tokens)
    logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
    sampling = chat.params(settings, limit, chat.stop, logprobs)
    dialogue = await turns(chat.messages, settings)
    return await prepare(runtime, Question(dialogue, sampling, drop_oldest=chat.truncation == "auto"))
