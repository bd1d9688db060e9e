"""LLaVA records: reading JSON or JSONL, cleaning text, and turning a record into the prompt's messages.

The only place where `<image>` inside a text means anything. Format: Liu et al. 2023 (LLaVA), one object
`{"id", "image", "conversations": [{"from": "human" | "gpt", "value": ...}]}` per record.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.prompt import Image, Message

IMAGE_MARK = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd\u200b\ufeff]")


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
        """The record in LLaVA's format."""
        names = {"user": "human", "assistant": "gpt", "system": "system"}
        turns = []
        for message in self.messages:
            parts = [IMAGE_MARK if isinstance(part, Image) else part for part in message.content]
            turns.append({"from": names[message.role], "value": "\n".join(parts)})
        image = {"image": self.image} if self.image else {}
        return {"id": self.id, **image, "kind": self.kind, "conversations": turns}


def read_annotations(path: Path) -> Iterator[dict]:
    """Records of a JSON list or a JSONL file, as they are.

    Raises:
        ValueError: with the line, where the file is not JSON.
    """
    with path.open(encoding="utf-8") as file:
        head = file.read(64).lstrip()
        file.seek(0)
        if head.startswith("["):
            try:
                yield from json.load(file)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} is not JSON: {error}") from error
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number}, is not JSON: {error.msg}") from error


def clean_text(text: str) -> str:
    """Unicode NFC, HTML entities resolved, control characters dropped, spaces collapsed, line breaks kept."""
    text = _CONTROL.sub("", unicodedata.normalize("NFC", html.unescape(text)).replace("\r\n", "\n"))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def parse_record(raw: object) -> Record:
    """Check one record.

    Raises:
        RecordError: names what is wrong with it.
    """
    if not isinstance(raw, dict):
        raise RecordError("not an object")
    turns = raw.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise RecordError("no conversations")
    image = raw.get("image")
    if image is not None and (not isinstance(image, str) or not image):
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
    return Record(str(raw.get("id", "")), image, tuple(messages), str(raw.get("kind", "dialogue")))


def _parse_turn(turn: object) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise RecordError("a turn without a text value")
    role = ROLES.get(str(turn.get("from")))
    if role is None:
        raise RecordError(f"a turn from {str(turn.get('from'))[:20]!r}")
    parts: list[str | Image] = []
    for index, text in enumerate(turn["value"].split(IMAGE_MARK)):
        if index:
            parts.append(Image())
        if text := clean_text(text):
            parts.append(text)
    images = [part for part in parts if isinstance(part, Image)]
    texts = [part for part in parts if isinstance(part, str)]
    return Message(role, (*images, *(["\n".join(texts)] if texts else [])))
