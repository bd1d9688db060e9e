"""The body of POST /v1/chat/completions: what of OpenAI's request is taken, and what is refused with a reason."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from service.api.sampling import MAX_LOGPROBS, SamplingFields, StopString
from service.errors import unsupported


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Part):
    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    url: str = Field(
        description="`data:image/jpeg;base64,...`, or PNG or WebP; https only where the operator allows it."
    )
    detail: Literal["auto", "low", "high"] = Field("auto", description="Accepted and not used.")


class ImagePart(_Part):
    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(_Part):
    data: str = Field(description="The file in base64.")
    format: Literal["wav", "mp3"]


class AudioPart(_Part):
    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[Part], Tag("parts"), Field(max_length=256)],
    Discriminator(lambda content: "parts" if isinstance(content, list) else "string"),
]


class ChatMessage(BaseModel):
    """One turn. `developer` is another name for `system`; images and audio come with the user's turns."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = Field(None, description="Accepted and not used.")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_empty(cls, message: Any) -> Any:
        """Clients send an answer back as they got it, with a null for everything that it does not have."""
        if not isinstance(message, dict):
            return message
        return {key: value for key, value in message.items() if value not in (None, []) or key == "content"}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="End the stream with a chunk that has the `usage`.")
    continuous_usage_stats: bool = Field(
        False, description="With `include_usage`: have the `usage` so far in each chunk, as vLLM does."
    )
    include_obfuscation: bool = Field(False, description="Accepted and not used.")


class TextFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatRequest(SamplingFields):
    """A dialogue that ends with the user's turn. A field that is null counts as left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "embedded",
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                },
                {
                    "model": "embedded",
                    "messages": [
                        {"role": "system", "content": "Answer in one sentence."},
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "What colour is this?"},
                                {
                                    "type": "image_url",
                                    "image_url": {
                                        "url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABL"
                                        "bSncAAAAFUlEQVR42mM8ISfHgA0wMeAAg1MCANDKARQfGKMRAAAAAElFTkSuQmCC"
                                    },
                                },
                            ],
                        },
                    ],
                    "max_completion_tokens": 32,
                },
            ]
        },
    )

    model: str = Field(description="An id of GET /v1/models.", examples=["embedded"])
    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens to generate.", examples=[64]
    )
    max_tokens: int | None = Field(None, ge=1, description="The same, by its older name.", examples=[64])
    n: int = Field(1, ge=1, le=4, description="How many answers; they differ where temperature is above 0.")
    stop: list[StopString] = Field(
        [], max_length=4, description="An answer ends before any of these strings; one may come as it is."
    )
    logprobs: bool = Field(False, description="Report each token's log-probability.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="And those of so many likeliest tokens in its place."
    )
    stream: bool = Field(False, description="Answer in chunks, as server-sent events that end with `[DONE]`.")
    stream_options: StreamOptions | None = None
    response_format: TextFormat | None = None
    truncation: Literal["disabled", "auto"] = Field(
        "disabled",
        description="Of a dialogue that is too long, `auto` drops the oldest turns (their images stay); "
        "`disabled` answers 400. Not one of OpenAI's fields for chat: send it as `extra_body`.",
    )
    user: str | None = Field(None, description="Accepted and not used, as the following.")
    metadata: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: Literal[False] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, body: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in body.items() if value is not None}

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_string(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop


_NO_TOOLS = "Tools and functions are not supported by this service. Leave {param!r} out."
_UNSUPPORTED = {
    "tools": _NO_TOOLS,
    "tool_choice": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "function_call": _NO_TOOLS,
    "response_format": "Only the response_format {{'type': 'text'}} is supported, not JSON or a schema.",
    "logit_bias": "A logit_bias is not supported by this service. Leave it out.",
    "audio": "Answers are text: spoken answers are not supported. Leave 'audio' out.",
    "modalities": "Answers are text: the only modality of an answer is 'text'.",
    "prediction": "A prediction is not supported by this service. Leave it out.",
    "reasoning_effort": "The model has no reasoning effort to set. Leave it out.",
    "verbosity": "The model has no verbosity to set; ask for a short answer in the prompt.",
    "web_search_options": "Web search is not supported by this service. Leave it out.",
    "store": "Answers are not stored by this service. Leave 'store' out or send false.",
}
_HARMLESS = {
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Raises `ApiError` 400 for a part of OpenAI's request that this service does not have, if it is used, and
    for fields that do not go together."""
    for param, message in _UNSUPPORTED.items():
        value = body.get(param)
        if value in (None, [], {}) or value in _HARMLESS.get(param, ()):
            body.pop(param, None)
            continue
        raise unsupported(param, message.format(param=param))
    _refuse_contradictions(body)


def _refuse_contradictions(body: dict[str, Any]) -> None:
    given = {key for key, value in body.items() if value is not None}
    if {"max_tokens", "max_completion_tokens"} <= given:
        raise unsupported("max_tokens", "Send max_completion_tokens or max_tokens, not both.")
    if "top_logprobs" in given and not body.get("logprobs"):
        raise unsupported("top_logprobs", "top_logprobs needs logprobs to be true.")
    if "stream_options" in given and not body.get("stream"):
        raise unsupported("stream_options", "stream_options needs stream to be true.")
