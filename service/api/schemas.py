"""Bodies of the native routes as pydantic models: what is accepted and what is answered, with examples."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerBase

from service.answer import Answer
from service.api.logprobs import TokenLogprob, token_logprobs
from service.api.sampling import MAX_LOGPROBS, SamplingFields, StopString


class GenerateFields(SamplingFields):
    """The text fields of POST /generate."""

    prompt: str = Field(
        "", description="The question. May be left out if there is audio.", examples=["What is this?"]
    )
    max_new_tokens: int | None = Field(None, ge=1, description="Most tokens to generate.", examples=[64])
    stop: list[StopString] = Field(
        [], max_length=8, description="The answer ends before any of these strings. May be repeated."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Report the log-probability of each token, and of this many of the likeliest in its place.",
        examples=[2],
    )
    stream: bool = Field(False, description="Answer with server-sent events.")


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int = Field(description="The whole prompt, its image tokens included.")
    image_tokens: int = Field(description="Those of them that stand for images.")
    completion_tokens: int = Field(description="Tokens generated, the one that ends the answer included.")


class RequestTimings(BaseModel):
    """Where the time went, in milliseconds."""

    queue_ms: float = Field(description="Waiting for the engine.")
    transcribe_ms: float = Field(description="Speech to text, its queue included.")
    vision_ms: float = Field(description="Vision tower and projector.")
    prefill_ms: float = Field(description="From there to the first token.")
    decode_ms: float = Field(description="From the first token to the last.")


class GenerateAnswer(BaseModel):
    """The answer of POST /generate, also the data of the stream's `done` event."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "gen-8f14e45fceea4d6f",
                    "model": "embedded",
                    "text": "A brown dog is running along the beach.",
                    "transcript": None,
                    "finish_reason": "stop",
                    "logprobs": None,
                    "usage": {"prompt_tokens": 31, "image_tokens": 16, "completion_tokens": 10},
                    "timings": {
                        "queue_ms": 0.1,
                        "transcribe_ms": 0.0,
                        "vision_ms": 38.5,
                        "prefill_ms": 71.2,
                        "decode_ms": 402.0,
                    },
                }
            ]
        }
    )

    id: str
    model: str = Field(description="Name of the model that answered.")
    text: str
    transcript: str | None = Field(description="What was said in the audio; null without audio.")
    finish_reason: Literal["stop", "length"] = Field(
        description="`stop`: the answer ended by itself or at a stop string. `length`: at max_new_tokens."
    )
    logprobs: list[TokenLogprob] | None = Field(description="The tokens; null unless asked for.")
    usage: Usage
    timings: RequestTimings

    @classmethod
    def of(cls, answer: Answer, tokenizer: PreTrainedTokenizerBase, eos_token_ids: tuple[int, ...]) -> Self:
        """What to say about an answer that has come to its end."""
        prepared, generation = answer.prepared, answer.generation
        asked = generation.request.sampling.logprobs is not None
        timings = generation.timings
        return cls(
            id=f"gen-{answer.id}",
            model=answer.model,
            text=answer.text,
            transcript=prepared.transcript,
            finish_reason=answer.finish_reason,
            logprobs=token_logprobs(tokenizer, answer.tokens, eos_token_ids) if asked else None,
            usage=Usage(
                prompt_tokens=len(generation.request.input_ids),
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


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="For a person: what was wrong, where, what to do.")
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None = Field(description="The field it is about.")
    code: str | None = Field(description="For a program: a stable word.")


class ErrorBody(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "The field 'temperature' should be less than or equal to 5, not 9.",
                        "type": "invalid_request_error",
                        "param": "temperature",
                        "code": "invalid_request",
                    }
                }
            ]
        }
    )

    error: ErrorDetail


_ERRORS = {
    400: "A field is missing, unknown or wrong.",
    401: "The operator has set an API key, and it is missing or wrong.",
    413: "The body or a file is too large.",
    415: "A file or the body is of a kind that is not accepted.",
    429: "Too many requests or tokens are in progress; `Retry-After` says when to try again.",
    500: "The server failed.",
    503: "The service is loading or shutting down; `Retry-After` says when to try again.",
    504: "The request was not answered in time.",
}


def error_responses() -> dict[int | str, dict[str, object]]:
    """The errors among the `responses` of a route behind the models, for the OpenAPI page."""
    return {status: {"model": ErrorBody, "description": text} for status, text in _ERRORS.items()}
