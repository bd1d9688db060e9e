"""From what a client sent to what the engine takes: media decoded, speech transcribed, the prompt encoded.

All routes that generate come through here, so that the same question gives the same tokens on each.
"""

import asyncio
import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from service.engine.interface import GenerationRequest, ImageInput, SamplingParams
from service.errors import bad_request, from_media
from service.runtime import Runtime
from service.speech import transcribe_audio
from shared.media import ImageLimits, MediaError, decode_image
from shared.model import MultimodalModel
from shared.prompt import (
    IMAGE_TOKEN_ID,
    EncodedPrompt,
    Message,
    PromptTooLong,
    drop_oldest_turns,
    question_content,
)


@dataclass(frozen=True)
class Media:
    """A file that a client sent, and the field it came in, for messages about it."""

    data: bytes
    param: str


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue; images and audio come with a user's turn only.

    However a client orders them, a turn's images come first in the prompt, then what is said in its audio,
    then its text: the order that the model learned.
    """

    role: Literal["system", "user", "assistant"]
    text: str = ""
    images: tuple[Media, ...] = ()
    audio: tuple[Media, ...] = ()


@dataclass(frozen=True)
class Question:
    """What a client asks: a dialogue that ends with a user's turn, and how to answer.

    Attributes:
        drop_oldest: lose the oldest turns of a dialogue that is too long, instead of refusing it.
    """

    turns: tuple[Turn, ...]
    sampling: SamplingParams
    drop_oldest: bool = False


@dataclass(frozen=True)
class Prepared:
    """A question ready for the engine.

    Attributes:
        transcript: what was said in the audio of all turns, a line each; None without audio.
        transcribe_seconds: how long that took, waiting for the speech worker included.
        dropped_turns: turns lost, since the dialogue was too long.
    """

    request: GenerationRequest
    transcript: str | None
    transcribe_seconds: float
    dropped_turns: int = 0

    @property
    def image_tokens(self) -> int:
        return self.request.input_ids.count(IMAGE_TOKEN_ID)


async def prepare(runtime: Runtime, question: Question) -> Prepared:
    """Decodes, transcribes and encodes a question.

    Raises:
        ApiError: 400, 413 or 415 for media that cannot be used, 400 for silence without a text, 429, 503
            or 504 from the speech worker.
    """
    images = await asyncio.gather(
        *(_image(runtime, image) for turn in question.turns for image in turn.images)
    )
    started = time.monotonic()
    heard = [await _transcribe(runtime, turn) for turn in question.turns]
    seconds = time.monotonic() - started
    messages = [
        Message(turn.role, question_content(turn.text, transcript or "", len(turn.images)))
        for turn, transcript in zip(question.turns, heard, strict=True)
    ]
    # In a thread, since a long text takes the tokenizer longer than the event loop may be blocked.
    encoded, dropped = await asyncio.to_thread(_encode, runtime, messages, question)
    request = GenerationRequest(encoded.input_ids, tuple(images), question.sampling)
    spoken = [transcript for transcript in heard if transcript is not None]
    if not spoken:
        return Prepared(request, None, 0.0, dropped)
    return Prepared(request, "\n".join(filter(None, spoken)), seconds, dropped)


def _encode(runtime: Runtime, messages: list[Message], question: Question) -> tuple[EncodedPrompt, int]:
    dropped = 0
    if question.drop_oldest:
        room = runtime.engine.max_request_tokens - question.sampling.max_new_tokens
        with suppress(PromptTooLong):  # then the engine refuses it, with the counts
            messages, dropped = drop_oldest_turns(runtime.model.prompt, messages, room)
    return runtime.model.prompt.encode(messages), dropped


async def _transcribe(runtime: Runtime, turn: Turn) -> str | None:
    """What is said in a turn's audio; None without audio."""
    if not turn.audio:
        return None
    said = [(await transcribe_audio(runtime, part.data, param=part.param)).text for part in turn.audio]
    transcript = "\n".join(filter(None, said))
    if not transcript and not turn.text.strip():
        raise bad_request(
            "No speech was heard in the audio, and no text was given with it. Send one of them.",
            param=turn.audio[0].param,
            code="no_speech",
        )
    return transcript


async def _image(runtime: Runtime, image: Media) -> ImageInput:
    settings = runtime.settings
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    try:
        return await asyncio.to_thread(_image_input, runtime.model, image.data, limits)
    except MediaError as error:
        raise from_media(error, image.param) from None


def _image_input(model: MultimodalModel, data: bytes, limits: ImageLimits) -> ImageInput:
    image = decode_image(data, limits=limits, target_size=model.config.vision.image_size)
    pixel_values = model.preprocess([image])[0]
    return ImageInput(hashlib.sha256(data).digest(), pixel_values)
