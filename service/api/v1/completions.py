"""The answer of POST /v1/chat/completions, whole or in chunks, in the field order of OpenAI's."""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.answer import Answer, interleaved
from service.api.dependencies import deadline
from service.api.logprobs import TokenLogprob, token_logprobs
from service.api.streaming import DONE, data_event
from service.api.v1.requests import StreamOptions
from service.engine.interface import TokenEvent
from service.errors import ApiError
from service.runtime import Runtime


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Logprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: Logprobs | None = Field(description="Null unless asked for.")
    finish_reason: Literal["stop", "length"]


class PromptDetails(BaseModel):
    image_tokens: int = Field(description="Those of the prompt's tokens that stand for images.")


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = Field(description="Of all choices together.")
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatCompletion(BaseModel):
    """OpenAI's chat completion, and two fields of our own: `transcript` and `dropped_messages`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "chatcmpl-8f14e45fceea4d6f8f14e45f",
                    "object": "chat.completion",
                    "created": 1764000000,
                    "model": "embedded",
                    "choices": [
                        {
                            "index": 0,
                            "message": {
                                "role": "assistant",
                                "content": "The capital of France is Paris.",
                                "refusal": None,
                            },
                            "logprobs": None,
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {
                        "prompt_tokens": 16,
                        "completion_tokens": 8,
                        "total_tokens": 24,
                        "prompt_tokens_details": {"image_tokens": 0},
                    },
                    "system_fingerprint": None,
                    "transcript": None,
                    "dropped_messages": 0,
                }
            ]
        }
    )

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    system_fingerprint: None = None
    transcript: str | None = Field(description="What was said in the input_audio; null without any.")
    dropped_messages: int = Field(description="Messages lost to `truncation: auto`.")


class Completion:
    """One request's answers on their way to the client.

    Args:
        options: what a stream has beside the text.
    """

    def __init__(self, runtime: Runtime, answers: Sequence[Answer], options: StreamOptions) -> None:
        self._id = f"chatcmpl-{answers[0].id}"
        self._created = int(time.time())
        self._model = answers[0].model
        self._answers = answers
        self._options = options
        self._tokenizer = runtime.model.tokenizer
        self._eos_token_ids = runtime.model.eos_token_ids
        self._timeout = runtime.settings.request_timeout

    async def whole(self) -> ChatCompletion:
        """Raises `ApiError` if the engine fails."""
        async for _ in interleaved(self._answers):
            pass
        prepared = self._answers[0].prepared
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(index, answer) for index, answer in enumerate(self._answers)],
            usage=self._usage(),
            transcript=prepared.transcript,
            dropped_messages=prepared.dropped_turns,
        )

    async def chunks(self, begin: float) -> AsyncGenerator[str]:
        """Server-sent events: each choice's role, its text in pieces, its `finish_reason`; then `[DONE]`, or an
        error's body if the engine fails or `request_timeout` has passed since `begin`."""
        held: list[list[TokenEvent]] = [[] for _ in self._answers]
        try:
            async with deadline(self._timeout, since=begin):
                for index in range(len(self._answers)):
                    yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
                async for index, event in interleaved(self._answers):
                    if event.logprob is not None:
                        held[index].append(event)
                    if event.text or event.finish_reason:
                        delta = {"content": event.text} if event.text else {}
                        tokens, held[index] = held[index], []
                        yield self._chunk(index, delta, tokens, event.finish_reason)
        except ApiError as error:
            yield data_event(error.body())
            return
        if self._options.include_usage:
            yield data_event(self._head() | {"choices": [], "usage": self._usage().model_dump()})
        yield DONE

    def _chunk(
        self, index: int, delta: dict[str, Any], tokens: Sequence[TokenEvent] = (), reason: str | None = None
    ) -> str:
        logprobs = self._logprobs(tokens) if tokens else None
        logprobs = logprobs.model_dump() if logprobs and logprobs.content else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return data_event(self._head() | {"choices": [choice]} | self._usage_so_far())

    def _usage_so_far(self) -> dict[str, Any]:
        if not self._options.include_usage:
            return {}
        return {"usage": self._usage().model_dump() if self._options.continuous_usage_stats else None}

    def _head(self) -> dict[str, Any]:
        prepared = self._answers[0].prepared
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": None,
            "transcript": prepared.transcript,
            "dropped_messages": prepared.dropped_turns,
        }

    def _choice(self, index: int, answer: Answer) -> Choice:
        asked = answer.generation.request.sampling.logprobs is not None
        return Choice(
            index=index,
            message=AssistantMessage(content=answer.text),
            logprobs=self._logprobs(answer.tokens) if asked else None,
            finish_reason=answer.finish_reason,
        )

    def _logprobs(self, tokens: Sequence[TokenEvent]) -> Logprobs:
        return Logprobs(content=token_logprobs(self._tokenizer, tokens, self._eos_token_ids))

    def _usage(self) -> CompletionUsage:
        prepared = self._answers[0].prepared
        prompt = len(prepared.request.input_ids)
        completion = sum(answer.generation.completion_tokens for answer in self._answers)
        return CompletionUsage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptDetails(image_tokens=prepared.image_tokens),
        )
