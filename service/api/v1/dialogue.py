"""From a chat request's messages to the turns of a dialogue: text joined, media decoded or fetched."""

import asyncio
import base64
import binascii
from collections.abc import Sequence

from service.api.v1.requests import AudioPart, ChatMessage, ImagePart, Part, TextPart
from service.errors import ApiError, bad_request
from service.fetch import FetchError, fetch
from service.pipeline import Media, Turn
from service.settings import Settings


async def turns(messages: Sequence[ChatMessage], settings: Settings) -> tuple[Turn, ...]:
    """The dialogue of a request.

    Raises:
        ApiError: 400 for a dialogue that cannot be answered or media that cannot be had, 413 for too large a
            file.
    """
    _check(messages, settings)
    return tuple([await _turn(message, f"messages[{i}]", settings) for i, message in enumerate(messages)])


def _check(messages: Sequence[ChatMessage], settings: Settings) -> None:
    last = messages[-1]
    if last.role != "user":
        raise bad_request(
            f"The last message must be the user's, not the {last.role}'s: it is what gets answered.",
            param=f"messages[{len(messages) - 1}].role",
        )
    for kind, name, most in (
        (ImagePart, "images", settings.max_images),
        (AudioPart, "recordings", settings.max_recordings),
    ):
        count = sum(isinstance(part, kind) for message in messages for part in _parts(message))
        if count > most:
            raise bad_request(
                f"The messages have {count} {name}; at most {most} are accepted.", param="messages"
            )


def _parts(message: ChatMessage) -> Sequence[Part]:
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return message.content


async def _turn(message: ChatMessage, place: str, settings: Settings) -> Turn:
    role = "system" if message.role == "developer" else message.role
    texts: list[str] = []
    images: list[Media] = []
    audio: list[Media] = []
    for index, part in enumerate(_parts(message)):
        where = f"{place}.content[{index}]"
        if not isinstance(part, TextPart) and role != "user":
            raise bad_request(
                f"Only the user's messages have images or audio, not the {role}'s.", param=where
            )
        match part:
            case TextPart(text=text):
                texts.append(text)
            case ImagePart(image_url=image):
                where += ".image_url.url"
                images.append(Media(await _image(image.url, where, settings), where))
            case AudioPart(input_audio=recording):
                where += ".input_audio.data"
                data = await _base64(recording.data, where, settings.max_upload_bytes)
                audio.append(Media(data, where))
    text = "\n".join(texts)
    if len(text.encode()) > settings.max_text_bytes:
        raise ApiError(
            413,
            f"The text is too large: at most {settings.max_text_bytes} bytes are accepted in a message.",
            param=f"{place}.content",
            code="too_large",
        )
    if role == "user" and not text.strip() and not audio:
        raise bad_request(
            "Nothing was asked: send a text, or audio with a spoken question.",
            param=f"{place}.content",
            code="no_prompt",
        )
    return Turn(role, text, tuple(images), tuple(audio))


async def _image(url: str, where: str, settings: Settings) -> bytes:
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "data":
        header, comma, data = rest.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise bad_request(
                "A data: URL must be of the form data:image/jpeg;base64,...", param=where, code="invalid_url"
            )
        return await _base64(data, where, settings.max_image_bytes)
    if scheme.lower() not in ("http", "https"):
        raise bad_request(
            "Send the image as a data: URL, of the form data:image/jpeg;base64,...",
            param=where,
            code="invalid_url",
        )
    try:
        return await fetch(
            url,
            hosts=settings.image_hosts,
            max_bytes=settings.max_image_bytes,
            timeout=settings.image_fetch_timeout,
        )
    except FetchError as error:
        raise bad_request(str(error), param=where, code="image_not_fetched") from None


async def _base64(text: str, where: str, max_bytes: int) -> bytes:
    if len(text) * 3 // 4 > max_bytes + 2:
        raise ApiError(
            413,
            f"The file is too large: at most {max_bytes} bytes are accepted.",
            param=where,
            code="too_large",
        )
    try:
        # In a thread: a file of many megabytes would hold up everybody else's tokens.
        return await asyncio.to_thread(base64.b64decode, text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("The file is not valid base64.", param=where, code="invalid_base64") from None
