"""Captions as dialogues: every human caption of a photograph answers the same request to describe it."""

from __future__ import annotations

from collections.abc import Sequence

from .captions import Photo, clean
from .facts import seeded

FIRST_REQUEST = "Describe this image in one sentence."
OTHER_REQUESTS = (
    "Describe this photo.",
    "Describe the picture.",
    "What is in this picture?",
    "What does this image show?",
    "What is happening in the photo?",
    "What do you see?",
    "Give a short description of the image.",
    "Write a caption for this photo.",
)
FIRST_SHARE = 0.55


def caption_records(photos: Sequence[Photo], seed: int) -> list[dict]:
    """One record, kind "caption", per caption that is a sentence when cleaned.

    All captions of a photograph get one request, so that a trainer can share the prefix: the first one for
    over half of the photographs.
    """
    records = []
    for photo in photos:
        rng = seeded(seed, "describe", photo.file)
        request = FIRST_REQUEST if rng.random() < FIRST_SHARE else rng.choice(OTHER_REQUESTS)
        for number, caption in enumerate(map(clean, photo.captions)):
            if caption:
                turns = [{"from": "human", "value": f"<image>\n{request}"}, {"from": "gpt", "value": caption}]
                stem = photo.file.rsplit(".", 1)[0]
                record = {"id": f"caption-{stem}-{number}", "image": photo.file, "kind": "caption"}
                records.append(record | {"topic": "caption", "conversations": turns})
    return records
