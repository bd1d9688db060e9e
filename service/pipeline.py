"""From what a client sent to what the engine takes: media decoded, speech transcribed, the prompt encoded.

All routes that generate come through here, so that the same question gives the same tokens on each.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.engine.interface import GenerationRequest, ImageInput, SamplingParams
from service.errors import ApiError, bad_request, from_media, from_transcription
from service.runtime import Runtime
from service.transcription import Transcript, TranscriptionError
from shared.media import AudioLimits, ImageLimits, MediaError, decode_audio, decode_image
from shared.model import MultimodalModel
from shared.prompt import IMAGE_TOKEN_ID, Message, question_content


@dataclass(frozen=True)
class Question:
    """What a client asks: text, image files and one audio file, of which text or audio must be there."""

    prompt: str
    images: Sequence[bytes]
    audio: bytes | None
    sampling: SamplingParams


@dataclass(frozen=True)
class Prepared:
    """A question ready for the engine.

    Attributes:
        transcript: what was said in the audio; None without audio.
        transcribe_seconds: how long that took, waiting for the speech worker included.
    """

    request: GenerationRequest
    transcript: str | None
    transcribe_seconds: float

    @property
    def image_tokens(self) -> int:
        return self.request.input_ids.count(IMAGE_TOKEN_ID)


async def prepare(runtime: Runtime, question: Question) -> Prepared:
    """Decodes, transcribes and encodes a question.

    Raises:
        ApiError: 400, 413 or 415 for media that cannot be used, 400 for silence without a prompt, 429, 503
            or 504 from the speech worker.
    """
    images = await asyncio.gather(*(_image(runtime, data) for data in question.images))
    transcript, seconds = None, 0.0
    if question.audio is not None:
        started = time.monotonic()
        transcript = (await transcribe_audio(runtime, question.audio)).text
        seconds = time.monotonic() - started
        if not transcript and not question.prompt.strip():
            raise bad_request(
                "No speech was heard in the audio, and no prompt was given. Send one of them.",
                param="audio",
                code="no_speech",
            )
    content = question_content(question.prompt, transcript or "", len(images))
    # In a thread, since a long text takes the tokenizer longer than the event loop may be blocked.
    encoded = await asyncio.to_thread(runtime.model.prompt.encode, [Message("user", content)])
    request = GenerationRequest(encoded.input_ids, tuple(images), question.sampling)
    return Prepared(request, transcript, seconds)


async def _image(runtime: Runtime, data: bytes) -> ImageInput:
    settings = runtime.settings
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    try:
        return await asyncio.to_thread(_image_input, runtime.model, data, limits)
    except MediaError as error:
        raise from_media(error, "image") from None


def _image_input(model: MultimodalModel, data: bytes, limits: ImageLimits) -> ImageInput:
    pixel_values = model.preprocess([decode_image(data, limits=limits)])[0]
    return ImageInput(hashlib.sha256(data).digest(), pixel_values)


async def transcribe_audio(
    runtime: Runtime, data: bytes, *, language: str | None = None, word_timestamps: bool = False
) -> Transcript:
    """Decodes and transcribes an audio file; silence gives an empty transcript.

    Raises:
        ApiError: 400, 413 or 415 for a file that cannot be used, 429, 503 or 504 from the speech worker.
    """
    if runtime.transcriber is None:
        raise ApiError(
            400, "This service does not take audio: speech is turned off.", code="speech_off", param="audio"
        )
    limits = AudioLimits(
        max_bytes=runtime.settings.max_upload_bytes, max_seconds=runtime.settings.transcription.max_seconds
    )
    try:
        audio = await asyncio.to_thread(decode_audio, data, limits=limits)
    except MediaError as error:
        raise from_media(error, "audio") from None
    try:
        return await runtime.transcriber.transcribe(audio, language=language, word_timestamps=word_timestamps)
    except TranscriptionError as error:
        raise from_transcription(error) from None
