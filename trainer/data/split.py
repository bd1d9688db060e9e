"""Third pass: records whose image can be used, divided by image into training and validation shards."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.report import Report
from trainer.data.shards import RECORDS, new_shard, read_batches, read_column, shard_name

SHARD = 65_536  # records
BATCH = 256


def write_splits(
    records: Path, images: list[Path], validation: float, seed: int, folder: Path, report: Report
) -> dict[str, list[Path]]:
    """Write `train-*.arrow` and `val-*.arrow` of the scanned `records`, count into `report`, return the paths.

    All records of an image stay on one side; plain text is divided by record id.

    Raises:
        ValueError: no record is left.
    """
    names, errors = read_column(images, "name"), read_column(images, "error").combine_chunks()
    usable = pc.filter(names, errors.is_null())
    held_out = _held_out(records, usable, validation, seed)
    rows = pc.index_in(read_column([records], "image"), value_set=names, skip_nulls=True)
    reasons = pc.take(errors, rows.combine_chunks())  # null where the image is usable, or there is none
    writers = {"train": _Writer("train", folder), "val": _Writer("val", folder)}
    start = 0
    for batch in read_batches(records):
        why = reasons.slice(start, batch.num_rows)
        start += batch.num_rows
        for place in np.flatnonzero(why.is_valid()):
            name, identifier = (batch[key][place].as_py() for key in ("image", "id"))
            report.drop(why[place].as_py(), f"{name} (id {identifier})")
        kept = batch.filter(why.is_null())
        report.kept.update(kept["kind"].to_pylist())
        is_val = pc.is_in(_groups(kept), value_set=held_out)
        writers["val"].write(kept.filter(is_val))
        writers["train"].write(kept.filter(pc.invert(is_val)))
    if not report.kept:
        raise ValueError(f"no usable record: {report.reasons() or 'the annotations are empty'}")
    for name, writer in writers.items():
        report.parts[name] = writer.close()
    report.parts["images"] = len(usable)
    return {name: writer.paths for name, writer in writers.items()}


def _groups(batch: pa.RecordBatch) -> pa.Array:
    text = pc.binary_join_element_wise("text", batch["id"], ":")
    return pc.coalesce(batch["image"], text)


def _held_out(records: Path, usable: pa.ChunkedArray, share: float, seed: int) -> pa.Array:
    batches = read_batches(records, ["id", "image"])
    texts = [_groups(batch.filter(batch["image"].is_null())) for batch in batches]
    groups = pa.chunked_array([*usable.chunks, *texts], pa.string()).unique().sort()
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    return groups.take(pa.array(order[: round(len(groups) * share)], pa.int64()))


class _Writer:
    """Record batches of any size into shards of one split."""

    def __init__(self, split: str, folder: Path):
        self.paths: list[Path] = []
        self._split, self._folder = split, folder
        self._waiting: list[pa.RecordBatch] = []
        self._written = 0
        self._shard, self._writer = ExitStack(), None

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        if sum(waiting.num_rows for waiting in self._waiting) >= BATCH:
            self._flush()

    def close(self) -> int:
        """Records written in all."""
        self._flush()
        self._shard.close()
        return self._written

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, RECORDS).combine_chunks()
        self._waiting = []
        if not table.num_rows:
            return
        if self._written >= SHARD * len(self.paths):
            self._shard.close()
            self.paths.append(self._folder / shard_name(self._split, len(self.paths)))
            self._writer = self._shard.enter_context(new_shard(self.paths[-1], RECORDS))
        self._writer.write_table(table)
        self._written += table.num_rows
