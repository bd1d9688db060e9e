"""From a recording that a client sent to what is said in it. All routes that take speech come through here."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np

from service.errors import ApiError, from_media, from_transcription
from service.runtime import Runtime
from service.transcription import Progress, Transcriber, Transcript, TranscriptionError
from service.transcription.transcript import PLAIN, TranscriptionOptions
from shared.media import AudioLimits, MediaError, decode_audio


def require_speech(runtime: Runtime, param: str) -> Transcriber:
    """The transcriber. Raises `ApiError` 400 where the operator turned speech off."""
    if runtime.transcriber is None:
        raise ApiError(
            400, "This service does not take audio: speech is turned off.", code="speech_off", param=param
        )
    return runtime.transcriber


async def decode_recording(runtime: Runtime, data: bytes, param: str = "audio") -> np.ndarray:
    """The sound of an audio or video file, sent as the field `param`: mono 16 kHz float32 `[samples]`.

    Raises:
        ApiError: 400, 413 or 415 for a file that cannot be used.
    """
    require_speech(runtime, param)
    limits = AudioLimits(
        max_bytes=runtime.settings.max_upload_bytes, max_seconds=runtime.settings.transcription.max_seconds
    )
    try:
        return await asyncio.to_thread(decode_audio, data, limits=limits)
    except MediaError as error:
        raise from_media(error, param) from None


async def hear(
    runtime: Runtime, audio: np.ndarray, options: TranscriptionOptions = PLAIN, *, param: str = "audio"
) -> AsyncGenerator[Progress | Transcript]:
    """What is said, as it is heard; the last event is the whole `Transcript`.

    Raises:
        ApiError: 400 for options that the models cannot meet, 429, 503 or 504 from the speech worker.
    """
    events = require_speech(runtime, param).stream(audio, options)
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except TranscriptionError as error:
            raise from_transcription(error, param) from None


async def transcribe_audio(
    runtime: Runtime, data: bytes, options: TranscriptionOptions = PLAIN, *, param: str = "audio"
) -> Transcript:
    """Decodes and transcribes an audio file, sent as the field `param`; silence gives an empty transcript.

    Raises:
        ApiError: those of `decode_recording` and `hear`.
    """
    audio = await decode_recording(runtime, data, param)
    async with aclosing(hear(runtime, audio, options, param=param)) as events:
        async for event in events:
            if isinstance(event, Transcript):
                return event
    raise AssertionError("what is heard ends with its transcript")
