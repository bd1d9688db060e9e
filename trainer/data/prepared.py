"""Reading what `prepare` wrote: records and images by row or name, memory-mapped.

A folder holds `train-*.arrow` and `val-*.arrow` (records), `images-*.arrow` (JPEG at the vision tower's
size), `index.json` (shards, settings, sources), `report.json` (what was dropped and why) and `README.md`, the
card with which Hugging Face `datasets` opens it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from shared.config import VisionConfig
from trainer.data.records import Record
from trainer.data.shards import Rows

INDEX = "index.json"
Split = Literal["train", "val"]


class PreparedData:
    """A finished folder of `prepare`.

    Raises:
        ValueError: there is none at `folder`, or it is not finished.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.index = json.loads((folder / INDEX).read_text("utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"{folder} is no finished data: run `python -m trainer prepare ... --out {folder}`, "
                "which continues where it was stopped"
            ) from None

    def require(self, vision: VisionConfig) -> None:
        """The images must have been fitted as the model's vision tower takes them.

        Raises:
            ValueError: they were prepared for another image size or another way of fitting.
        """
        prepared = self.index["settings"]["vision"]
        for name in ("image_size", "fit"):
            if prepared[name] != (wanted := getattr(vision, name)):
                raise ValueError(
                    f"{self.folder} was prepared for another vision tower: {name} is {prepared[name]} there and "
                    f"{wanted} in the model. Run `python -m trainer prepare` again, with the model's --preset and "
                    "another --out."
                )

    def rows(self, part: Literal["train", "val", "images"]) -> Rows:
        """The shards of one part."""
        return Rows([self.folder / shard["file"] for shard in self.index["shards"][part]])

    def count(self, split: Split) -> int:
        """Records of a split."""
        return sum(shard["rows"] for shard in self.index["shards"][split])

    def records(self, split: Split) -> Iterator[Record]:
        """Every record of a split, in order.

        Raises:
            ValueError: a record cannot be used, with its row and id.
        """
        for row, raw in enumerate(self.rows(split)):
            try:
                yield Record.from_json(raw)
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.folder / split}, row {row}, record {raw.get('id')!r}: {error}"
                ) from error

    @cached_property
    def images(self) -> PreparedImages:
        """The images by name."""
        digest = hashlib.sha256("".join(shard["sha256"] for shard in self.index["shards"]["images"]).encode())
        return PreparedImages(self.rows("images"), digest.hexdigest())


class PreparedImages:
    """JPEG files by name; `digest` is a hash of all of them."""

    def __init__(self, rows: Rows, digest: str):
        self._rows, self._digest = rows, digest
        self._by_name = {name: row for row, name in enumerate(rows.column("name").to_pylist())}

    @cached_property
    def usable(self) -> list[str]:
        """Names of those that can be read, in order."""
        broken = self._rows.column("error").is_valid().to_pylist()
        return [name for name, is_broken in zip(self._by_name, broken, strict=True) if not is_broken]

    def read(self, name: str) -> bytes:
        """The JPEG file of an image.

        Raises:
            ValueError: there is none of that name, or it could not be used; says why.
        """
        row = self._by_name.get(name)
        if row is None:
            raise ValueError(f"no image {name!r} among the prepared ones")
        image = self._rows[row]
        if image["jpeg"] is None:
            raise ValueError(f"image {name!r} could not be prepared: {image['error']}")
        return image["jpeg"]

    def version(self, name: str) -> str:
        """Another text where any image has changed."""
        return self._digest
