"""POST /transcribe: speech to text, as JSON, plain text, subtitles, or a stream of what is heard."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

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
from service.api.schemas import error_responses
from service.api.streaming import EventStream, server_sent_event
from service.auth import require_key
from service.errors import ApiError, bad_request
from service.speech import hear
from service.transcription import Progress, Transcript, TranscriptionOptions
from service.transcription.formats import (
    ResponseFormat,
    segment_json,
    to_json,
    to_verbose_json,
    wants_words,
)
from service.transcription.transcript import Alignment, Task
from shared.media import SAMPLE_RATE


class TranscribeFields(SpeechFields):
    """The text fields of POST /transcribe."""

    language: Language = None
    task: Task = Field(
        "transcribe", description="`translate` writes English whatever is spoken; a multilingual Whisper can."
    )
    word_timestamps: bool = Field(
        False,
        description="Add `words` with their times: to each segment in json, as one list in verbose_json.",
    )
    speakers: bool = Field(
        False,
        description="Say who speaks; segments end where the speaker changes. Needs the operator's "
        "diarisation model.",
    )
    response_format: ResponseFormat = Field("json", description="Form of the answer.")
    stream: bool = Field(
        False, description="Answer with server-sent events: `segment`, `progress`, then `done` with the json."
    )

    def options(self) -> TranscriptionOptions:
        return TranscriptionOptions(
            language=self.language,
            task=self.task,
            prompt=self.prompt,
            temperature=self.temperature,
            word_timestamps=self.word_timestamps or wants_words(self.response_format),
            speakers=self.speakers,
        )


class TranscribedWord(BaseModel):
    word: str
    start: float = Field(description="Seconds from the start of the recording.")
    end: float
    probability: float = Field(description="The model's confidence, 0 to 1.")
    speaker: str | None = Field(None, description="Only with `speakers`.")


class TranscribedSegment(BaseModel):
    """A stretch of speech between pauses, of at most about 30 seconds."""

    id: int
    start: float = Field(description="Seconds from the start of the recording.")
    end: float
    text: str
    words: list[TranscribedWord] | None = Field(None, description="Only with `word_timestamps`.")
    speaker: str | None = Field(None, description="`A`, `B`, ...; only with `speakers`.")


class TranscribeAnswer(BaseModel):
    """The answer of POST /transcribe in json. Where nobody speaks, `text` and `segments` are empty."""

    text: str
    language: str
    duration: float = Field(description="Length of the recording in seconds.")
    alignment: Alignment | None = Field(
        description="What timed the words: a wav2vec2 model, or Whisper's own attention; null without words."
    )
    segments: list[TranscribedSegment]


_TEXT = "He might even have been made amiable himself."
_EXAMPLE = {
    "text": _TEXT,
    "language": "en",
    "duration": 3.3,
    "alignment": "whisper",
    "segments": [
        {
            "id": 0,
            "start": 0.031,
            "end": 3.052,
            "text": _TEXT,
            "words": [{"word": "He", "start": 0.14, "end": 0.36, "probability": 0.97}],
        }
    ],
}
_STREAM_EXAMPLE = (
    'event: progress\ndata: {"seconds": 0.031, "duration": 3.3}\n\n'
    'event: segment\ndata: {"id": 0, "start": 0.031, "end": 3.052, "text": "He might even ..."}\n\n'
    'event: done\ndata: {"text": "He might even ...", "language": "en", ...}\n\n'
)

router = APIRouter(tags=["native"], dependencies=[Depends(require_key)])


@router.post(
    "/transcribe",
    summary="Write down what is said in a recording",
    response_model=TranscribeAnswer,
    responses={
        200: {
            "content": {
                "application/json": {"example": _EXAMPLE},
                "text/event-stream": {"example": _STREAM_EXAMPLE},
                **text_examples(_TEXT),
            }
        },
        **error_responses(),
    },
    openapi_extra=form_schema(TranscribeFields, {"audio": f"The recording: {FILE_KINDS}."}),
)
async def transcribe(request: Request, runtime: RuntimeDependency) -> Response:
    """Send a recording as the file `audio` of a `multipart/form-data` body. All of it counts, however long;
    silence gives an empty transcript.

    With `stream=true` the answer is server-sent events: `segment` with each stretch of speech as it is
    decoded, `progress` with the `seconds` of the recording's `duration` that are done, then `done` with the
    json answer, or `error` with an error body.
    """
    runtime.require_ready()
    begin = asyncio.get_running_loop().time()
    async with AsyncExitStack() as stack:
        stack.enter_context(runtime.admission.enter())
        async with deadline(runtime.settings.request_timeout, since=begin):
            fields, audio = await read_recording(request, runtime, TranscribeFields, "audio")
        if not fields.stream:
            return _response(
                await whole_transcript(request, runtime, audio, fields.options(), "audio"), fields
            )
        if fields.response_format != "json":
            raise bad_request(
                "A stream ends with json: leave 'response_format' out.", param="response_format"
            )
        seconds = len(audio) / SAMPLE_RATE
        events = await stack.enter_async_context(aclosing(hear(runtime, audio, fields.options())))
        first = await heard_at_all(request, events)
        return EventStream(_events(first, events, seconds, fields.word_timestamps), stack.pop_all())


def _response(transcript: Transcript, fields: TranscribeFields) -> Response:
    if (response := text_response(transcript, fields.response_format)) is not None:
        return response
    to = to_json if fields.response_format == "json" else to_verbose_json
    return JSONResponse(to(transcript, words=fields.word_timestamps))


async def _events(
    first: Progress | Transcript,
    rest: AsyncGenerator[Progress | Transcript],
    duration: float,
    words: bool,
) -> AsyncGenerator[str]:
    try:
        event = first
        while isinstance(event, Progress):
            for segment in event.segments:
                yield server_sent_event("segment", segment_json(segment, words=words))
            yield server_sent_event(
                "progress", {"seconds": round(event.until, 3), "duration": round(duration, 3)}
            )
            event = await anext(rest)
        yield server_sent_event("done", to_json(event, words=words))
    except ApiError as error:
        yield server_sent_event("error", error.body())
