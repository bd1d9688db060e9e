"""POST /transcribe: speech to text, as JSON, plain text or subtitles."""

import asyncio

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.api.dependencies import RuntimeDependency, deadline, while_connected
from service.api.forms import form_schema, read_form
from service.api.schemas import error_responses
from service.auth import require_key
from service.errors import bad_request
from service.pipeline import transcribe_audio
from service.transcription.formats import (
    ResponseFormat,
    to_json,
    to_srt,
    to_text,
    to_verbose_json,
    to_vtt,
    wants_words,
)
from service.transcription.transcript import Transcript


class TranscribeFields(BaseModel):
    """The text fields of POST /transcribe."""

    model_config = ConfigDict(extra="forbid")

    language: str | None = Field(
        None,
        pattern="^[a-z]{2,3}$",
        description="Language spoken, a code of two or three letters; else the operator's, or detected.",
        examples=["en"],
    )
    word_timestamps: bool = Field(
        False,
        description="Add `words` with their times: to each segment in json, as one list in verbose_json.",
    )
    response_format: ResponseFormat = Field("json", description="Form of the answer.")

    @field_validator("language", mode="before")
    @classmethod
    def _empty_is_left_out(cls, language: str | None) -> str | None:
        return language.strip().lower() or None if isinstance(language, str) else language


class TranscribedWord(BaseModel):
    word: str
    start: float = Field(description="Seconds from the start of the recording.")
    end: float
    probability: float = Field(description="The model's confidence, 0 to 1.")


class TranscribedSegment(BaseModel):
    """A stretch of speech between pauses, of at most about 30 seconds."""

    id: int
    start: float = Field(description="Seconds from the start of the recording.")
    end: float
    text: str
    words: list[TranscribedWord] | None = Field(None, description="Only with `word_timestamps`.")


class TranscribeAnswer(BaseModel):
    """The answer of POST /transcribe in json. Where nobody speaks, `text` and `segments` are empty."""

    text: str
    language: str
    duration: float = Field(description="Length of the recording in seconds.")
    segments: list[TranscribedSegment]


_EXAMPLE = {
    "text": "He might even have been made amiable himself.",
    "language": "en",
    "duration": 3.3,
    "segments": [
        {"id": 0, "start": 0.031, "end": 3.052, "text": "He might even have been made amiable himself."}
    ],
}
_SUBTITLE = "00:00:00{0}031 --> 00:00:03{0}052\nHe might even have been made amiable\nhimself.\n"

router = APIRouter(tags=["native"], dependencies=[Depends(require_key)])


@router.post(
    "/transcribe",
    summary="Write down what is said in a recording",
    response_model=TranscribeAnswer,
    responses={
        200: {
            "content": {
                "application/json": {"example": _EXAMPLE},
                "text/plain": {"example": _EXAMPLE["text"] + "\n"},
                "application/x-subrip": {"example": "1\n" + _SUBTITLE.format(",")},
                "text/vtt": {"example": "WEBVTT\n\n" + _SUBTITLE.format(".")},
            }
        },
        **error_responses(),
    },
    openapi_extra=form_schema(
        TranscribeFields,
        {"audio": "The recording: WAV, AIFF, FLAC, MP3, AAC, Ogg/Opus, M4A, or a video's sound (MP4, WebM)."},
    ),
)
async def transcribe(request: Request, runtime: RuntimeDependency) -> Response:
    """Send a recording as the file `audio` of a `multipart/form-data` body. All of it counts, however long;
    silence gives an empty transcript."""
    runtime.require_ready()
    settings = runtime.settings
    begin = asyncio.get_running_loop().time()
    patience = settings.request_timeout + settings.transcription.timeout
    async with deadline(patience, since=begin):
        with runtime.admission.enter():
            fields, files = await read_form(
                request, TranscribeFields, {"audio": 1}, max_text_bytes=settings.max_text_bytes
            )
            if not files["audio"]:
                raise bad_request(
                    "There is no recording. Send one as the file 'audio'.",
                    param="audio",
                    code="missing_field",
                )
            transcript = await while_connected(
                request,
                transcribe_audio(
                    runtime,
                    files["audio"][0],
                    language=fields.language,
                    word_timestamps=fields.word_timestamps or wants_words(fields.response_format),
                ),
            )
    return _response(transcript, fields)


def _response(transcript: Transcript, fields: TranscribeFields) -> Response:
    match fields.response_format:
        case "json":
            return JSONResponse(to_json(transcript, words=fields.word_timestamps))
        case "verbose_json":
            return JSONResponse(to_verbose_json(transcript, words=fields.word_timestamps))
        case "text":
            return PlainTextResponse(to_text(transcript))
        case "srt":
            return Response(to_srt(transcript), media_type="application/x-subrip; charset=utf-8")
        case "vtt":
            return Response(to_vtt(transcript), media_type="text/vtt; charset=utf-8")
