"""What the routes for speech share: fields, reading the recording, and the answer in each format."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from service.api.dependencies import while_connected
from service.api.forms import read_form
from service.errors import bad_request
from service.runtime import Runtime
from service.speech import decode_recording, hear, require_speech
from service.transcription import Progress, Transcript, TranscriptionOptions
from service.transcription.formats import to_srt, to_text, to_vtt

Fields = TypeVar("Fields", bound=BaseModel)

FILE_KINDS = (
    "WAV, AIFF, FLAC, MP3, AAC, Ogg (Opus, Vorbis), M4A, or a video's sound (MP4, MOV, WebM, Matroska)"
)


def _empty_is_left_out(language: Any) -> Any:
    return language.strip().lower() or None if isinstance(language, str) else language


Language = Annotated[
    Annotated[str, StringConstraints(pattern="^[a-z]{2,3}$")] | None,
    BeforeValidator(_empty_is_left_out),
    Field(
        description="Language spoken, a code of two or three letters; else the operator's, or detected.",
        examples=["en"],
    ),
]


class SpeechFields(BaseModel):
    """How Whisper decodes: the text fields that every route for speech takes."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    prompt: str = Field(
        "", description="Text that could stand before the speech, for the spelling of names and for style."
    )
    temperature: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="0 searches for the likeliest text; more samples."
    )


async def read_recording(
    request: Request, runtime: Runtime, schema: type[Fields], param: str
) -> tuple[Fields, np.ndarray]:
    """The text fields of a form and the sound of its one file `param`, `[samples]`.

    Raises:
        ApiError: those of `read_form` and `decode_recording`; 400 without a file.
    """
    require_speech(runtime, param)
    limit = runtime.settings.max_text_bytes
    fields, files = await read_form(request, schema, {param: 1}, max_text_bytes=limit)
    if not files[param]:
        raise bad_request(
            f"There is no recording. Send one as the file {param!r}.", param=param, code="missing_field"
        )
    # The list gives up the file's bytes: they are not held while the sound is transcribed.
    return fields, await while_connected(request, decode_recording(runtime, files[param].pop(), param))


async def whole_transcript(
    request: Request, runtime: Runtime, audio: np.ndarray, options: TranscriptionOptions, param: str
) -> Transcript:
    """Waits for the transcript, as long as the client does.

    Raises:
        ApiError: those of `hear`.
    """
    events = hear(runtime, audio, options, param=param)

    async def last() -> Transcript:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Transcript):
                    return event
        raise AssertionError("what is heard ends with its transcript")

    return await while_connected(request, last())


async def heard_at_all(
    request: Request, events: AsyncGenerator[Progress | Transcript]
) -> Progress | Transcript:
    """The first event, awaited before the answer begins, so that what is refused gets its HTTP status.

    Raises:
        ApiError: those of `hear`.
    """
    return await while_connected(request, anext(events))


def text_response(transcript: Transcript, response_format: str) -> Response | None:
    """The answer in a format that is text; None for one that is JSON."""
    match response_format:
        case "text":
            return PlainTextResponse(to_text(transcript))
        case "srt":
            return Response(to_srt(transcript), media_type="application/x-subrip; charset=utf-8")
        case "vtt":
            return Response(to_vtt(transcript), media_type="text/vtt; charset=utf-8")
    return None


def text_examples(text: str) -> dict[str, Any]:
    """Examples of the formats that are text, for the OpenAPI page."""
    cue = f"00:00:00{{0}}031 --> 00:00:03{{0}}052\n{text}\n"
    return {
        "text/plain": {"example": text + "\n"},
        "application/x-subrip": {"example": "1\n" + cue.format(",")},
        "text/vtt": {"example": "WEBVTT\n\n" + cue.format(".")},
    }
