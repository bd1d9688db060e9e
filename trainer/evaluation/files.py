"""An evaluation's files: its records, and where its pictures lie."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path


def read_records(path: Path) -> list[dict]:
    """Objects of a JSON list or of a JSONL file.

    Raises ValueError naming the file, and the line, where it is neither.
    """
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is not JSON: {error}") from error
    return records


def find_picture(name: str, folders: Sequence[Path]) -> Path:
    """The picture in the first folder that has it. Raises FileNotFoundError naming it."""
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    where = ", ".join(map(str, folders)) or "no folder: give --images"
    raise FileNotFoundError(f"{name} is in none of: {where}")


def evenly(items: list, limit: int | None) -> list:
    """At most `limit` items in their order, one drawn from each of as many stretches of equal length.

    So every part of a sorted file is there, and a rhythm in it (yes and no in turn) is not sampled one-sidedly.
    """
    if limit is None or limit >= len(items):
        return items
    rng = random.Random(0)
    return [items[int((index + rng.random()) * len(items) / limit)] for index in range(limit)]
