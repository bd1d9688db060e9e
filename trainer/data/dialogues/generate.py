"""`python -m trainer dialogues`: captions and boxes in, LLaVA records out.

The method of COCO-QA (Ren, Kiros, Zemel 2015: questions made from captions by rules), with answers balanced
within every question, yes and no equally often for every noun, and boxes where captions cannot prove that
something is absent. Everything drawn depends on the seed and the photograph alone, so the same input gives
the same files.

Into --out go `records.json`, `report.json` (how many of each kind, topic and answer), `images/` (the boxed
photographs used and the views made), with boxes `held_out.json` (the photographs kept for evaluation), and
with --text `text.json` (plain-text dialogues answered by the base model).
Records name their picture by file name: it lies in --images or in `images/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .activity import activity_facts
from .boxes import (
    BoxedPhoto,
    balance_sides,
    box_count_facts,
    box_object_facts,
    box_side_facts,
    box_yesno_facts,
    hold_out,
    read_boxes,
)
from .captions import Photo, read_captions
from .colour import colour_facts, colour_yesno_facts
from .count import count_facts
from .describe import caption_records
from .facts import Fact, answer_counts, cap, seeded, to_record
from .indoors import indoors_facts
from .text import base_model, text_records
from .things import choice_facts
from .views import mosaic_facts, plan_mosaics, square_views, write_mosaic
from .who import who_facts
from .yesno import yesno_facts

HELD_OUT = 40
WORDINGS = {"colour": 2, "count": 2, "object": 2}  # how often a fact of a rare kind is asked, each time anew


@dataclass(frozen=True)
class Split:
    """How much is made for training or for evaluation."""

    evaluation: bool
    crops: int  # square crops of each boxed photograph, each also mirrored
    mosaics: int
    sides: int
    yesno_per_noun: int  # yes, and as many no
    yesno: int | None = None  # at most so many in all, half of them yes
    other: int | None = None  # at most so many of every other kind


SPLITS = {
    "train": Split(evaluation=False, crops=5, mosaics=1500, sides=4000, yesno_per_noun=240),
    "eval": Split(evaluation=True, crops=2, mosaics=150, sides=300, yesno_per_noun=40, yesno=1000, other=300),
}


def caption_facts(photos: Sequence[Photo], split: Split, seed: int) -> list[Fact]:
    """Balanced facts of every kind that captions give."""
    colours = colour_facts(photos)
    rules = (colours, choice_facts(photos), activity_facts(photos), indoors_facts(photos), who_facts(photos))
    balanced = [fact for facts in (*rules, count_facts(photos)) for fact in cap(facts, seed)]
    yesno = yesno_facts(photos, seed, per_answer=split.yesno_per_noun)
    return balanced + yesno + colour_yesno_facts(colours, seed)


def box_facts(
    photos: Sequence[BoxedPhoto], crops: Sequence[BoxedPhoto], split: Split, seed: int
) -> list[Fact]:
    """Balanced facts of every kind that boxes give, but for sides."""
    shown = [*photos, *crops]
    facts = box_yesno_facts(shown, seed, per_answer=split.yesno_per_noun // 4)
    return facts + [f for made in (box_count_facts(shown), box_object_facts(shown)) for f in cap(made, seed)]


def limit_kinds(facts: Sequence[Fact], split: Split, seed: int) -> list[Fact]:
    """At most as many facts of each kind as the split wants; of yes/no as many yes as no."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        groups.setdefault((fact.kind, fact.answer if fact.kind.endswith("yesno") else ""), []).append(fact)
    kept = []
    for (kind, answer), group in groups.items():
        limit = split.yesno if kind == "yesno" else split.other
        most = limit and limit // (2 if answer else 1)
        kept += (
            seeded(seed, "limit", kind, answer).sample(group, most) if most and len(group) > most else group
        )
    return kept


def to_records(facts: Sequence[Fact], split: Split, seed: int) -> list[dict]:
    """The records of facts; of a rare kind each fact is worded more than once for training."""
    records = []
    for fact in facts:
        asked: set[str] = set()
        for again in range(1 if split.evaluation else WORDINGS.get(fact.kind, 1)):
            record = to_record(fact, seed + again, evaluation=split.evaluation)
            if record["conversations"][0]["value"] not in asked:
                asked.add(record["conversations"][0]["value"])
                records.append(record | {"id": f"{record['id']}-{again}"})
    return records


def generate(
    captions: Path,
    images: Path,
    out: Path,
    *,
    boxes: Path | None = None,
    box_images: Path | None = None,
    split: str = "train",
    mosaics: int | None = None,
    crops: int | None = None,
    seed: int = 0,
) -> dict:
    """Make all dialogues of a split and write them to `out`; returns the report.

    Raises ValueError for a malformed captions or boxes file, FileNotFoundError for a missing picture.
    """
    plan = SPLITS[split]
    mosaics = plan.mosaics if mosaics is None else mosaics
    crops = plan.crops if crops is None else crops
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    photos = read_captions(captions)
    facts = caption_facts(photos, plan, seed)

    pairs = plan_mosaics(photos, seed, count=mosaics, name=f"mosaic-{split}")
    for mosaic in pairs:
        write_mosaic(mosaic, images, folder)
    sides, yesno = mosaic_facts(pairs, seed)
    if not plan.evaluation:
        facts += yesno

    if boxes is not None and box_images is not None:
        train, held_out = hold_out(read_boxes(boxes), HELD_OUT, seed)
        used = held_out if plan.evaluation else train
        for photo in used:
            shutil.copyfile(box_images / photo.file, folder / photo.file)
        views = [v for p in used for v in square_views(p, box_images, folder, seed, count=crops)]
        facts += box_facts(used, views, plan, seed)
        sides += box_side_facts(views)
        names = sorted(p.file for p in held_out)
        (out / "held_out.json").write_text(json.dumps(names, indent=1) + "\n")

    facts += balance_sides(sides, seed, limit=plan.sides)
    facts = limit_kinds(facts, plan, seed)
    records = to_records(facts, plan, seed)
    if not plan.evaluation:
        records = caption_records(photos, seed) + records
    report = {
        "split": split,
        "seed": seed,
        "records": len(records),
        "kinds": dict(Counter(r["kind"] for r in records).most_common()),
        "answers": answer_counts(facts),
    }
    (out / "records.json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "--captions", type=Path, required=True, metavar="TSV", help="lines of file<TAB>caption"
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the captioned photographs")
    parser.add_argument("--boxes", type=Path, metavar="JSONL", help="object boxes of other photographs")
    parser.add_argument("--box-images", type=Path, metavar="DIR", help="the boxed photographs")
    parser.add_argument(
        "--text", metavar="PRESET", help="also let this preset's base model answer plain prompts"
    )
    parser.add_argument("--split", choices=sorted(SPLITS), default="train", help="default: train")
    parser.add_argument("--mosaics", type=int, metavar="N", help="pairs of photographs side by side")
    parser.add_argument("--crops", type=int, metavar="N", help="square crops of each boxed photograph")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 2 with a message for bad arguments or data."""
    if (args.boxes is None) != (args.box_images is None):
        print("--boxes and --box-images belong together: give both or neither", file=sys.stderr)
        return 2
    try:
        report = generate(
            args.captions,
            args.images,
            args.out,
            boxes=args.boxes,
            box_images=args.box_images,
            split=args.split,
            mosaics=args.mosaics,
            crops=args.crops,
            seed=args.seed,
        )
        if args.text:
            text = text_records(base_model(args.text))
            (args.out / "text.json").write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
            report["kinds"]["text"] = len(text)
    except (OSError, ValueError) as error:
        print(f"dialogues: {error}", file=sys.stderr)
        return 2
    width = max(map(len, report["kinds"]))
    for kind, number in report["kinds"].items():
        print(f"{kind:<{width}}  {number:>7,}")
    print(f"{'all':<{width}}  {sum(report['kinds'].values()):>7,}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` and run."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer dialogues", description="Make dialogues by rules."
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))
