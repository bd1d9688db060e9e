"""LLaVA records: checking, cleaning text, and turning a record into the prompt's messages and back.

The only place where `<image>` inside a text means anything. Format: Liu et al. 2023 (LLaVA), one object
`{"id", "image", "conversations": [{"from": "human" | "gpt", "value": ...}]}` per record. `parse_record` takes
what others wrote; `Record.from_json` what `Record.to_json` wrote, whose text is final.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

from shared.prompt import Image, Message

IMAGE_MARK = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
# control characters, half of a surrogate pair, the mark of undecodable bytes, zero-width space, byte order mark
_NOISE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffd\u200b\ufeff]")


class RecordError(ValueError):
    """A record that cannot be used; `str()` is the reason counted in the report."""


@dataclass(frozen=True)
class Record:
    """A checked record: an image's file name or None, and whole turns, question and answer alternating."""

    id: str
    image: str | None
    messages: tuple[Message, ...]
    kind: str = "dialogue"

    def to_json(self) -> dict:
        """The record in LLaVA's format, each image before its turn's text."""
        turns = []
        for message in self.messages:
            parts = [IMAGE_MARK if isinstance(part, Image) else part for part in message.content]
            turns.append({"from": SPEAKERS[message.role], "value": "\n".join(parts)})
        return {"id": self.id, "image": self.image, "kind": self.kind, "conversations": turns}

    @classmethod
    def from_json(cls, raw: dict) -> Record:
        """The record that `to_json` wrote, its text untouched."""
        messages = tuple(_stored_turn(turn["from"], turn["value"]) for turn in raw["conversations"])
        return cls(raw["id"], raw["image"], messages, raw["kind"])


def _stored_turn(speaker: str, value: str) -> Message:
    mark, _, text = value.partition("\n") if value.startswith(IMAGE_MARK) else ("", "", value)
    content = (*([Image()] if mark else []), *([text] if text else []))
    return Message(ROLES[speaker], content)


def clean_text(text: str) -> str:
    """Unicode NFC, noise characters dropped, spaces collapsed, line breaks kept."""
    text = text.replace("\r\n", "\n")
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    lines = [" ".join(line.split()) for line in _NOISE.sub("", text).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def parse_record(raw: object) -> Record:
    """Check and clean one record: HTML entities resolved once, text cleaned, `<image>` put first in its turn.

    Raises:
        RecordError: names what is wrong with it.
    """
    if not isinstance(raw, dict):
        raise RecordError("not an object")
    turns = raw.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise RecordError("no conversations")
    image = raw.get("image")
    if image is not None and not _is_name(image):
        raise RecordError("image is not a file name")
    messages = [_parse_turn(turn) for turn in turns]
    first = 1 if messages[0].role == "system" else 0
    if len(messages) <= first or any(
        message.role != ("user", "assistant")[index % 2] for index, message in enumerate(messages[first:])
    ):
        raise RecordError("turns do not alternate, question first")
    if messages[-1].role != "assistant":
        messages.pop()
    if len(messages) <= first:
        raise RecordError("no answer")
    if any(message.role == "assistant" and not message.content for message in messages):
        raise RecordError("empty answer")
    if any(message.role == "assistant" and message.num_images for message in messages):
        raise RecordError("<image> in an answer")
    slots = sum(message.num_images for message in messages)
    if image is None and slots:
        raise RecordError("<image> without an image")
    if slots > 1:
        raise RecordError("more than one <image> for one image")
    if image is not None and not slots:
        messages[first] = Message("user", (Image(), *messages[first].content))
    if any(message.role == "user" and not message.content for message in messages):
        raise RecordError("empty question")
    identifier, kind = (
        clean_text(str(raw.get(key, default))) for key, default in (("id", ""), ("kind", "dialogue"))
    )
    return Record(identifier, image, tuple(messages), kind)


def _is_name(image: object) -> bool:
    return isinstance(image, str) and bool(image) and image.isprintable()


def _parse_turn(turn: object) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise RecordError("a turn without a text value")
    role = ROLES.get(str(turn.get("from")))
    if role is None:
        raise RecordError(f"a turn from an unknown speaker: {str(turn.get('from'))[:20]!r}")
    texts = clean_text(html.unescape(turn["value"])).split(IMAGE_MARK)
    text = "\n".join(part for part in map(str.strip, texts) if part)
    return Message(role, (*(Image() for _ in texts[1:]), *([text] if text else [])))
