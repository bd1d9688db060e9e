"""`prepare`: LLaVA records in, clean training data out.

Writes `train.jsonl` and `val.jsonl` (split by image, so no photograph is on both sides), `images/` at
the vision tower's size, `report.json` (what was kept, what was dropped and why, with the first
examples of each reason) and the resolved configuration. A bad record never stops the run.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from PIL import Image as PillowImage
from tqdm import tqdm

from shared.config import VisionConfig, load_preset
from shared.media import MediaError, decode_image
from shared.vision import fit_image
from trainer.config import PrepareConfig
from trainer.data.records import Record, RecordError, parse_record, read_annotations

log = logging.getLogger(__name__)

EXAMPLES = 5


@dataclass
class Report:
    """Counts that add up: read = kept + dropped."""

    read: int = 0
    kept: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def drop(self, reason: str, what: str) -> None:
        self.dropped[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(what[:200])

    def to_json(self) -> dict:
        return {
            "read": self.read,
            "kept": sum(self.kept.values()),
            "kept_by_kind": dict(sorted(self.kept.items())),
            "dropped": sum(self.dropped.values()),
            "dropped_by_reason": {
                reason: {"count": count, "first": self.examples[reason]}
                for reason, count in self.dropped.most_common()
            },
        }


def prepare(config: PrepareConfig) -> Report:
    """Run the whole preparation.

    Raises:
        ValueError: nothing usable is left, or an annotation file is not JSON.
    """
    vision = load_preset(config.preset).vision
    report = Report()
    records = _read(config, report)
    names = sorted({record.image for record in records if record.image})
    (config.out / "images").mkdir(parents=True, exist_ok=True)
    stored = _store_images(names, config, vision)
    usable = []
    for record in records:
        name = stored.get(record.image, record.image)
        if isinstance(name, Exception):
            report.drop(str(name), f"{record.id}: {record.image}")
        else:
            usable.append(replace(record, image=name))
            report.kept[record.kind] += 1
    if not usable:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in report.dropped.most_common(3))
        raise ValueError(f"no usable record: {reasons or 'the annotations are empty'}")
    train, val = split(usable, config.validation, config.seed)
    for name, part in (("train", train), ("val", val)):
        with (config.out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record.to_json(), ensure_ascii=False) + "\n" for record in part)
    summary = report.to_json() | {"train": len(train), "val": len(val)}
    (config.out / "report.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
    settings = config.model_dump(mode="json") | {"vision": vision.model_dump(mode="json")}
    (config.out / "prepare.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    return report


def split(records: list[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Train and validation records; all records of an image stay together."""
    groups = sorted({record.image or f"text:{record.id}" for record in records})
    random.Random(seed).shuffle(groups)
    held_out = set(groups[: round(len(groups) * share)])
    parts: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        parts[(record.image or f"text:{record.id}") in held_out].append(record)
    return parts


def _read(config: PrepareConfig, report: Report) -> list[Record]:
    records, seen = [], set()
    for path in config.annotations:
        for raw in read_annotations(path):
            report.read += 1
            what = str(raw.get("id", "no id") if isinstance(raw, dict) else raw)
            try:
                record = parse_record(raw)
            except RecordError as error:
                report.drop(str(error), what)
                continue
            key = (record.image, record.messages)
            if key in seen:
                report.drop("duplicate", what)
            elif any(
                len(part) > config.max_answer_chars
                for message in record.messages
                if message.role == "assistant"
                for part in message.content
            ):
                report.drop(f"an answer over {config.max_answer_chars} characters", what)
            else:
                seen.add(key)
                records.append(record)
    return records


def _store_images(
    names: list[str], config: PrepareConfig, vision: VisionConfig
) -> dict[str, str | Exception]:
    """Each image checked and written at the tower's size: its stored name, or what is wrong with it."""

    def store(name: str) -> str | Exception:
        try:
            return _store_image(name, config, vision)
        except (MediaError, RecordError) as error:
            return error

    with ThreadPoolExecutor(config.workers) as pool:  # Pillow decodes and resizes without the GIL
        results = list(tqdm(pool.map(store, names), total=len(names), desc="images", unit="image"))
    return dict(zip(names, results, strict=True))


def _store_image(name: str, config: PrepareConfig, vision: VisionConfig) -> str:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise RecordError("the image's path leaves its folder")
    source = next((folder / name for folder in config.images if (folder / name).is_file()), None)
    if source is None:
        raise RecordError("image not found")
    stored = name if relative.suffix.lower() in {".jpg", ".jpeg"} else f"{name}.jpg"
    target = config.out / "images" / stored
    if target.is_file():
        return stored
    target.parent.mkdir(parents=True, exist_ok=True)
    image = decode_image(source.read_bytes())
    scratch = target.with_name(f".{target.name}.partial")
    if _is_ready(source, image, vision):
        shutil.copyfile(source, scratch)  # compressing a second time would only lose
    else:
        fit_image(image, vision).save(scratch, "JPEG", quality=95)
    scratch.rename(target)
    return stored


def _is_ready(source: Path, image: PillowImage.Image, vision: VisionConfig) -> bool:
    with PillowImage.open(source) as original:
        return (
            original.format == "JPEG"
            and original.mode == "RGB"
            and original.size == image.size == (vision.image_size, vision.image_size)
            and original.getexif().get(0x0112, 1) == 1
        )
