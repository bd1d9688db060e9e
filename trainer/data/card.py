"""The card of prepared data: README.md in the hub's form, with which `datasets.load_dataset` opens the folder."""

from __future__ import annotations

from pathlib import Path

from trainer.data.report import Report

_HEAD = """---
configs:
- config_name: records
  default: true
  data_files:
{splits}- config_name: images
  data_files:
  - split: train
    path: images-*.arrow
---

# Prepared training data

{kept} records about {images} images ({train} train, {val} validation, split by image), made by
`python -m trainer prepare` from:

"""
_TAIL = """
Images are JPEG, {size} x {size}, fitted by `{fit}`. An image that could not be used keeps its row, without
`jpeg` and with the reason in `error`. The terms of the sources hold for this copy.

| config | rows | columns |
|---|---|---|
| `records` | {kept} | `id`, `image` (name, null for plain text), `kind`, `conversations` (LLaVA's turns) |
| `images` | {image_rows} | `name`, `jpeg`, `error` |

{read} records were read, {dropped} dropped:

| dropped | reason | for example |
|---|---|---|
"""


def write_card(path: Path, settings: dict, report: Report, shards: dict[str, list[dict]]) -> None:
    """Write the card from what the preparation knows."""
    counts = report.to_json()
    splits = {"train": "train", "val": "validation"}
    data_files = "".join(
        f"  - split: {name}\n    path: {part}-*.arrow\n" for part, name in splits.items() if shards[part]
    )
    sources = [f"- `{file['file']}` (sha256 `{file['sha256']}`)" for file in settings["annotations"]]
    if dataset := settings["dataset"]:
        sources.append(f"- hub dataset `{dataset['name']}` at commit `{dataset['commit']}`")
    drops = [
        f"| {entry['count']} | {_cell(reason)} | {_cell(entry['first'][0])} |"
        for reason, entry in counts["dropped_by_reason"].items()
    ]
    vision = settings["vision"]
    rows = sum(shard["rows"] for shard in shards["images"])
    text = _HEAD.format(splits=data_files, **counts) + "\n".join(sources) + "\n"
    text += _TAIL.format(size=vision["image_size"], fit=vision["fit"], image_rows=rows, **counts)
    path.write_text(text + "\n".join(drops) + "\n", "utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
