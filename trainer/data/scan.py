"""First pass: annotations in, checked and cleaned records out, as a stream. Images are not opened yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from trainer.data.annotations import Format, read_annotations
from trainer.data.records import Record, RecordError, parse_record
from trainer.data.report import Report
from trainer.data.shards import RECORDS, new_shard

BATCH = 256


def scan_records(files: list[Path], format: Format, max_answer_chars: int, target: Path) -> Report:
    """Write every usable record of `files` to the shard `target`; kept are counted later, with the images.

    Raises:
        ValueError: a file is no annotation file, or is cut off.
    """
    report = Report()
    with new_shard(target, RECORDS) as writer:
        batch: list[dict] = []
        for record in tqdm(_usable(files, format, max_answer_chars, report), desc="records", unit="record"):
            batch.append(record.to_json())
            if len(batch) == BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, RECORDS))
                batch = []
        writer.write_batch(pa.RecordBatch.from_pylist(batch, RECORDS))
    return report


def _usable(files: list[Path], format: Format, max_answer_chars: int, report: Report) -> Iterator[Record]:
    seen: set[int] = set()  # 64-bit hashes: among a million records two collide once in 40 million runs
    for path in files:
        for place, raw in read_annotations(path, format):
            report.read += 1
            try:
                record = _checked(raw, max_answer_chars)
            except RecordError as error:
                report.drop(str(error), _name(place, raw))
                continue
            key = hash((record.image, record.messages))
            if key in seen:
                report.drop("duplicate", _name(place, raw))
            else:
                seen.add(key)
                yield record


def _checked(raw: object, max_answer_chars: int) -> Record:
    if isinstance(raw, ValueError):
        raise RecordError(str(raw))
    record = parse_record(raw)
    if any(
        len(part) > max_answer_chars
        for message in record.messages
        if message.role == "assistant"
        for part in message.content
    ):
        raise RecordError(f"an answer over {max_answer_chars} characters")
    return record


def _name(place: str, raw: object) -> str:
    return f"{place} (id {raw['id']})" if isinstance(raw, dict) and "id" in raw else place
