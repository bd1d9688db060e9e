"""Annotation files of four formats as a stream of LLaVA records, as they are: nothing is checked here.

- LLaVA (Liu et al. 2023), a JSON array or JSONL
- Flickr8k (Hodosh et al. 2013): `name#0<TAB>caption`, `name<TAB>caption`, or CSV under `image,caption`
- COCO captions (Chen et al. 2015): `{"images": [...], "annotations": [...]}`
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from trainer.data.dialogues.captions import clean
from trainer.data.json_stream import json_elements, json_lines, open_text
from trainer.data.records import IMAGE_MARK

Format = Literal["auto", "llava", "flickr8k", "coco"]

# LLaVA's instructions for brief image descriptions (Liu et al. 2023, table 11)
BRIEF = (
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "Offer a succinct explanation of the picture presented.",
    "Summarize the visual content of the image.",
    "Give a short and clear explanation of the subsequent image.",
    "Share a concise interpretation of the image provided.",
    "Present a compact description of the photo's key features.",
    "Relay a brief, clear account of the picture shown.",
    "Render a clear and concise summary of the photo.",
    "Write a terse but informative summary of the picture.",
    "Create a compact narrative representing the image presented.",
)
_COCO = re.compile(r'\s*\{\s*"(info|images|annotations|licenses)"\s*:')


def read_annotations(path: Path, format: Format = "auto") -> Iterator[tuple[str, object]]:
    """(place in the file, raw record) of every record; a ValueError in a record's stead says that its line
    is not JSON, or why its caption makes no record.

    Raises:
        ValueError: the file is no JSON array where one is expected, or is cut off.
    """
    with open_text(path) as file:
        head = file.read(4096)
    if format == "auto":
        format = _detect(path, head)
    try:
        if format == "flickr8k":
            yield from _flickr8k(path)
        elif format == "coco":
            yield from _coco(path)
        else:
            yield from _llava(path, is_array=head.lstrip().startswith("["))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error


def _detect(path: Path, head: str) -> Format:
    if path.suffix in {".txt", ".tsv", ".csv"}:
        return "flickr8k"
    return "coco" if _COCO.match(head) else "llava"


def _llava(path: Path, *, is_array: bool) -> Iterator[tuple[str, object]]:
    with open_text(path) as file:
        if is_array:
            for number, (_, raw) in enumerate(json_elements(file), 1):
                yield f"{path.name}, record {number}", raw
        else:
            for number, raw in json_lines(file):
                yield f"{path.name}, line {number}", raw


def _flickr8k(path: Path) -> Iterator[tuple[str, object]]:
    with open_text(path) as file:
        header = file.readline()
        is_csv = header.strip().lower() == "image,caption"
        if not is_csv:
            file.seek(0)
        rows = csv.reader(file) if is_csv else (line.rstrip("\n").split("\t", 1) for line in file)
        for number, row in enumerate(rows, 2 if is_csv else 1):
            place = f"{path.name}, line {number}"
            if len(row) == 2:
                name = row[0].rsplit("#", 1)[0]
                yield place, _caption_record(f"{path.stem}-{number}", name, row[1])
            elif any(field.strip() for field in row):
                yield place, ValueError("not an image and its caption")


def _coco(path: Path) -> Iterator[tuple[str, object]]:
    names: dict[object, object] = {}
    with open_text(path) as file:
        for key, raw in json_elements(file):
            if key == "images" and isinstance(raw, dict):
                names[raw.get("id")] = raw.get("file_name")
    with open_text(path) as file:  # again, as captions may come before images
        captions = (raw for key, raw in json_elements(file) if key == "annotations")
        for number, raw in enumerate(captions, 1):
            place = f"{path.name}, annotation {number}"
            if not isinstance(raw, dict) or not isinstance(raw.get("caption"), str):
                yield place, ValueError("an annotation without a caption")
            elif raw.get("image_id") not in names:
                yield place, ValueError("a caption of an unknown image_id")
            else:
                yield (
                    place,
                    _caption_record(str(raw.get("id", number)), names[raw["image_id"]], raw["caption"]),
                )


def _caption_record(identifier: str, image: object, caption: str) -> dict | ValueError:
    """One question per image, so that its captions can share a row in training."""
    sentence = clean(caption)
    if not sentence:
        return ValueError("a caption of fewer than three words")
    question = BRIEF[zlib.crc32(str(image).encode()) % len(BRIEF)]
    return {
        "id": identifier,
        "image": image,
        "kind": "caption",
        "conversations": [
            {"from": "human", "value": f"{IMAGE_MARK}\n{question}"},
            {"from": "gpt", "value": sentence},
        ],
    }
