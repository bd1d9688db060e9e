"""POST /v1/audio/transcriptions and /v1/audio/translations, as OpenAI's API answers them."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from service.api.dependencies import RuntimeDependency, deadline
from service.api.forms import form_schema
from service.api.recordings import (
    FILE_KINDS,
    Language,
    SpeechFields,
    heard_at_all,
    read_recording,
    text_examples,
    text_response,
    whole_transcript,
)
from service.api.schemas import ErrorBody, error_responses
from service.api.streaming import DONE, EventStream, data_event
from service.api.v1.models import SPEECH_MODEL
from service.auth import require_key
from service.errors import ApiError, bad_request, unknown_model
from service.runtime import Runtime
from service.speech import hear
from service.transcription import Progress, Transcript, TranscriptionOptions
from service.transcription.formats import to_verbose_json, wants_words
from service.transcription.transcript import space_between


class _AudioFields(SpeechFields):
    model: str = Field(description="`whisper-1`, whichever Whisper is loaded.", examples=[SPEECH_MODEL])


class TranslationFields(_AudioFields):
    """The text fields of POST /v1/audio/translations."""

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = Field(
        "json", description="Form of the answer."
    )

    def options(self) -> TranscriptionOptions:
        return TranscriptionOptions(
            task="translate",
            prompt=self.prompt,
            temperature=self.temperature,
            word_timestamps=wants_words(self.response_format),
        )


class TranscriptionFields(_AudioFields):
    """The text fields of POST /v1/audio/transcriptions."""

    language: Language = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = Field(
        "json",
        description="Form of the answer. `diarized_json` says who speaks; it needs the operator's diarisation "
        "model.",
    )
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        [], alias="timestamp_granularities[]", description="What verbose_json has: `segment` unless said."
    )
    stream: bool = Field(
        False, description="Answer with server-sent events; for `json`, `text` and `diarized_json`."
    )
    chunking_strategy: Literal["auto"] | None = Field(
        None, description="Recordings are always cut at pauses, so `auto` changes nothing."
    )

    @property
    def words(self) -> bool:
        return "word" in self.timestamp_granularities

    def options(self) -> TranscriptionOptions:
        return TranscriptionOptions(
            language=self.language,
            prompt=self.prompt,
            temperature=self.temperature,
            word_timestamps=self.words or wants_words(self.response_format),
            speakers=self.response_format == "diarized_json",
        )

    def check(self) -> None:
        """Raises `ApiError` 400 for fields that do not go together."""
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise bad_request(
                "Timestamps come with the response_format 'verbose_json' only.",
                param="timestamp_granularities[]",
            )
        if self.stream and self.response_format not in ("json", "text", "diarized_json"):
            raise bad_request(
                f"The response_format {self.response_format!r} cannot be streamed; 'json' and 'text' can.",
                param="response_format",
            )


class DurationUsage(BaseModel):
    type: Literal["duration"] = "duration"
    seconds: float = Field(description="Length of the recording.")


class Transcription(BaseModel):
    """OpenAI's transcription in json."""

    text: str
    usage: DurationUsage


class Translation(BaseModel):
    """OpenAI's translation in json."""

    text: str


_TEXT = "He might even have been made amiable himself."
_USAGE = {"type": "duration", "seconds": 3.3}
_STREAM_EXAMPLE = (
    'data: {"type": "transcript.text.delta", "delta": "He might even"}\n\n'
    'data: {"type": "transcript.text.delta", "delta": " have been made amiable himself."}\n\n'
    'data: {"type": "transcript.text.done", "text": "He might even have been made amiable himself."}\n\n'
    "data: [DONE]\n\n"
)
_ERRORS = error_responses() | {404: {"model": ErrorBody, "description": "There is no such model."}}
_FILE = {"file": f"The recording: {FILE_KINDS}."}

router = APIRouter(prefix="/v1/audio", tags=["OpenAI-compatible"], dependencies=[Depends(require_key)])


@router.post(
    "/transcriptions",
    summary="Write down what is said in a recording",
    response_model=Transcription,
    responses={
        200: {
            "content": {
                "application/json": {"example": {"text": _TEXT, "usage": _USAGE}},
                "text/event-stream": {"example": _STREAM_EXAMPLE},
                **text_examples(_TEXT),
            }
        },
        **_ERRORS,
    },
    openapi_extra=form_schema(TranscriptionFields, _FILE),
)
async def transcriptions(request: Request, runtime: RuntimeDependency) -> Response:
    """OpenAI's transcriptions for its clients, over the same code as POST /transcribe.

    With `stream=true` the text comes as it is decoded, in `transcript.text.delta` events, one for each
    stretch of speech, and whole in `transcript.text.done`. In verbose_json, `alignment` says what timed the
    words: a wav2vec2 model, or Whisper's own attention.
    """
    runtime.require_ready()
    async with AsyncExitStack() as stack:
        stack.enter_context(runtime.admission.enter())
        fields, audio = await _read(request, runtime, TranscriptionFields)
        fields.check()
        with _names_of_openai():
            if not fields.stream:
                transcript = await whole_transcript(request, runtime, audio, fields.options(), "file")
                return _transcription(transcript, fields)
            events = hear(runtime, audio, fields.options(), param="file")
            await stack.enter_async_context(aclosing(events))
            first = await heard_at_all(request, events)
        return EventStream(_events(first, events), stack.pop_all())


@router.post(
    "/translations",
    summary="Write down in English what is said in another language",
    response_model=Translation,
    responses={
        200: {"content": {"application/json": {"example": {"text": _TEXT}}, **text_examples(_TEXT)}},
        **_ERRORS,
    },
    openapi_extra=form_schema(TranslationFields, _FILE),
)
async def translations(request: Request, runtime: RuntimeDependency) -> Response:
    """OpenAI's translations. Only a multilingual Whisper can; with an English one the answer is a 400."""
    runtime.require_ready()
    with runtime.admission.enter():
        fields, audio = await _read(request, runtime, TranslationFields)
        with _names_of_openai():
            transcript = await whole_transcript(request, runtime, audio, fields.options(), "file")
    if (response := text_response(transcript, fields.response_format)) is not None:
        return response
    if fields.response_format == "json":
        return JSONResponse({"text": transcript.text})
    return JSONResponse(to_verbose_json(transcript, words=False) | {"language": "english"})


@contextmanager
def _names_of_openai() -> Iterator[None]:
    """Names the fields of these routes where an error names an option."""
    try:
        yield
    except ApiError as error:
        error.param = {"task": "model", "speakers": "response_format"}.get(error.param, error.param)
        raise


async def _read(request: Request, runtime: Runtime, schema: type[Any]) -> Any:
    begin = asyncio.get_running_loop().time()
    async with deadline(runtime.settings.request_timeout, since=begin):
        fields, audio = await read_recording(request, runtime, schema, "file")
    if fields.model not in (SPEECH_MODEL, runtime.settings.transcription.model):
        raise unknown_model(fields.model, SPEECH_MODEL)
    return fields, audio


def _transcription(transcript: Transcript, fields: TranscriptionFields) -> Response:
    if (response := text_response(transcript, fields.response_format)) is not None:
        return response
    usage = DurationUsage(seconds=round(transcript.duration, 3)).model_dump()
    match fields.response_format:
        case "json":
            return JSONResponse({"text": transcript.text, "usage": usage})
        case "diarized_json":
            answer = {
                "task": "transcribe",
                "duration": round(transcript.duration, 3),
                "text": transcript.text,
                "segments": _diarized_segments(transcript),
            }
            return JSONResponse(answer | {"usage": usage})
    segments = not fields.words or "segment" in fields.timestamp_granularities
    answer = to_verbose_json(transcript, words=fields.words, segments=segments)
    language = LANGUAGES.get(transcript.language, transcript.language)
    return JSONResponse(answer | {"language": language, "usage": usage})


def _diarized_segments(transcript: Transcript) -> list[dict[str, Any]]:
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{segment.id}",
            "start": segment.start,
            "end": segment.end,
            "speaker": segment.speaker or "",
            "text": segment.text,
        }
        for segment in transcript.segments
    ]


async def _events(
    first: Progress | Transcript, rest: AsyncGenerator[Progress | Transcript]
) -> AsyncGenerator[str]:
    try:
        event, begun = first, False
        while isinstance(event, Progress):
            for segment in event.segments:
                space = space_between(event.language or "en") if begun else ""
                yield data_event({"type": "transcript.text.delta", "delta": space + segment.text})
                begun = True
            event = await anext(rest)
        if any(segment.speaker is not None for segment in event.segments):
            for segment in _diarized_segments(event):
                yield data_event(segment)
        yield data_event({"type": "transcript.text.done", "text": event.text})
        yield DONE
    except ApiError as error:
        yield data_event(error.body())
