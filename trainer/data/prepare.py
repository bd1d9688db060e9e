"""`prepare`: records and images in, clean training data out, at any size.

1. Records: streamed, checked, cleaned, duplicates dropped (scan.py).
2. Images: checked and brought to the tower's size, in parallel, into shards (image_shards.py).
3. Split by image, so that no photograph is on both sides (split.py).

What is finished of this is not done again after a stop. A bad record never stops the run: it is dropped and
counted by reason, unless `strict`. prepared.py reads the result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from shared.config import load_preset
from trainer.config import PrepareConfig
from trainer.data.card import write_card
from trainer.data.hub import fetch_dataset
from trainer.data.image_shards import write_image_shards
from trainer.data.image_sources import ImageSources
from trainer.data.prepared import INDEX
from trainer.data.report import Report
from trainer.data.scan import scan_records
from trainer.data.shards import count_rows, read_column
from trainer.data.split import write_splits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where everything is read from, and the settings that decide the result."""

    annotations: list[Path]
    images: list[Path]
    settings: dict


def prepare(config: PrepareConfig) -> Report:
    """Run the whole preparation, or what an earlier, stopped run left to do.

    Raises:
        ValueError: nothing usable is left, a file is none of the known formats or cannot be downloaded, `out`
            holds something else, or `strict` is set and a record was dropped.
    """
    staging = config.out / "staging"
    sources = _find_sources(config, staging)
    if (config.out / INDEX).is_file():
        log.info("%s is prepared already", config.out)
        report = Report.from_json(_read(config.out / "report.json"))
        _refuse_drops(config, report)
        shutil.rmtree(staging, ignore_errors=True)
        return report
    image_files = ImageSources(sources.images)
    records = staging / "records.arrow"
    report = _scan(config, sources, records)
    names = read_column([records], "image").drop_null().unique()
    vision = load_preset(config.preset).vision
    images = write_image_shards(names, image_files, vision, config.workers, config.out)
    try:
        splits = write_splits(records, images, config.validation, config.seed, config.out, report)
        _refuse_drops(config, report)
    except ValueError:
        _forget_failures(images)
        raise

    shards = {
        part: [_describe(path) for path in paths] for part, paths in (splits | {"images": images}).items()
    }
    index = {"settings": sources.settings, "shards": shards}
    _write(config.out / "report.json", report.to_json())
    write_card(config.out / "README.md", sources.settings, report, shards)
    _write(config.out / INDEX, index)  # last: it says that the rest is whole
    shutil.rmtree(staging)
    return report


def _find_sources(config: PrepareConfig, staging: Path) -> Sources:
    """Raises ValueError where `out` was made, or is being made, from something else."""
    found = None
    if (config.out / INDEX).is_file():
        found = _read(config.out / INDEX)["settings"]
    elif (staging / "settings.json").is_file():
        found = _read(staging / "settings.json")
    elif config.out.is_dir() and any(path != staging for path in config.out.iterdir()):
        raise ValueError(f"{config.out} is not empty and not of `prepare`: give another --out")
    annotations, images, dataset = list(config.annotations), list(config.images), None
    if config.dataset:
        dataset = {"name": config.dataset, "revision": config.revision, "files": config.dataset_files}
        known = (found or {}).get("dataset") or {}
        pinned = known.get("commit") if dataset.items() <= known.items() else None
        files = fetch_dataset(
            config.dataset, config.dataset_files, pinned or config.revision, offline=config.offline
        )
        annotations, images = annotations + files.annotations, images + files.images
        dataset["commit"] = files.commit
    vision = load_preset(config.preset).vision
    settings = {
        "vision": {"image_size": vision.image_size, "fit": vision.fit},
        "annotations": [{"file": path.name, "sha256": _sha256(path)} for path in annotations],
        "images": [str(path.resolve()) for path in images],
        "dataset": dataset,
        **config.model_dump(include={"format", "validation", "max_answer_chars", "seed"}),
    }
    if found not in (None, settings):
        changed = [key for key in settings if settings[key] != found.get(key)]
        was, now = ({key: side.get(key) for key in changed} for side in (found, settings))
        raise ValueError(
            f"{config.out} was made with other settings: {was} there, {now} now. Give another --out, or delete it."
        )
    return Sources(annotations, images, settings)


def _scan(config: PrepareConfig, sources: Sources, records: Path) -> Report:
    settings, saved = records.with_name("settings.json"), records.with_name("report.json")
    if not settings.is_file():
        records.parent.mkdir(parents=True, exist_ok=True)
        report = scan_records(sources.annotations, config.format, config.max_answer_chars, records)
        _refuse_drops(config, report)
        _write(saved, report.to_json())
        _write(settings, sources.settings)  # last: from here on `out` is of these settings
    report = Report.from_json(_read(saved))
    _refuse_drops(config, report)
    return report


def _refuse_drops(config: PrepareConfig, report: Report) -> None:
    if config.strict and report.dropped:
        raise ValueError(f"--strict: {report.dropped.total()} records cannot be used: {report.reasons()}")


def _forget_failures(shards: list[Path]) -> None:
    """So that the next run looks at the images that could not be used again."""
    for path in shards:
        errors = read_column([path], "error")
        if errors.null_count < len(errors):
            path.unlink()


def _describe(path: Path) -> dict:
    return {
        "file": path.name,
        "rows": count_rows(path),
        "bytes": path.stat().st_size,
        "sha256": _sha256(path),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def _write(path: Path, content: dict) -> None:
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    scratch.replace(path)
