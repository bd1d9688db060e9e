"""How fast and how lean `trainer prepare` is. Three measurements, each a verb:

images   images/s of prepare's second pass beside the loop that one would write (Pillow, then
         CLIPImageProcessor, one by one), and of its conversion in threads and in processes
json     MB/s of the incremental reader beside json.load and, where it is installed, ijson
records  a generated LLaVA file of 665,000 records over real photographs, prepared by the command itself:
         time, peak memory, and whether the counts add up

    python -m benchmarks.prepare images --photos DIR [DIR ...]
    python -m benchmarks.prepare json
    python -m benchmarks.prepare records --photos DIR --work DIR
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa

from shared.config import VisionConfig, load_preset
from trainer.data.image_shards import LIMITS, fit_jpeg, write_image_shards
from trainer.data.image_sources import ImageSources
from trainer.data.json_stream import json_elements, open_text

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, dest="verb")
    images = verbs.add_parser("images")
    images.add_argument("--photos", type=Path, nargs="+", required=True, help="folders, measured one by one")
    images.add_argument(
        "--count", type=int, default=1024, help="images per round; photographs are used again"
    )
    images.add_argument("--rounds", type=int, default=5)
    images.add_argument("--workers", type=int, default=os.cpu_count())
    reader = verbs.add_parser("json")
    reader.add_argument("--records", type=int, default=50_000)
    records = verbs.add_parser("records")
    records.add_argument("--photos", type=Path, required=True)
    records.add_argument("--records", type=int, default=665_000)
    records.add_argument(
        "--images", type=int, default=350_000, help="image names; photographs are used again"
    )
    records.add_argument("--work", type=Path, required=True, help="scratch folder, about 12 GB")
    args = parser.parse_args()
    {"images": measure_images, "json": measure_json, "records": measure_records}[args.verb](args)


# ---------------------------------------------------------------------------------------------- images


def measure_images(args: argparse.Namespace) -> None:
    from transformers import CLIPImageProcessor

    vision = load_preset("phi2").vision
    processor = CLIPImageProcessor(
        size={"shortest_edge": vision.image_size},
        crop_size={"height": vision.image_size, "width": vision.image_size},
        image_mean=list(vision.mean),
        image_std=list(vision.std),
    )
    for folder in args.photos:
        names = _repeat(_photos(folder), args.count)
        ways = {
            "naive loop": partial(naive_loop, folder, names, processor),
            f"prepare, {args.workers} workers": partial(prepared, folder, names, vision, args.workers),
            "conversion, 1 thread": partial(converted, folder, names, vision, ThreadPoolExecutor(1)),
            f"conversion, {args.workers} threads": partial(
                converted, folder, names, vision, ThreadPoolExecutor(args.workers)
            ),
            f"conversion, {args.workers} processes": partial(
                converted, folder, names, vision, ProcessPoolExecutor(args.workers)
            ),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(args.rounds + 1):  # the first warms caches and pools and does not count
            for name, run in ways.items():
                start = time.perf_counter()
                run()
                if round_:
                    rates[name].append(len(names) / (time.perf_counter() - start))
        print(f"\n{folder}: {len(names)} images, median of {args.rounds} interleaved rounds")
        base = rates["naive loop"]
        for name, values in rates.items():
            ratios = [value / other for value, other in zip(values, base, strict=True)]
            low, high = min(ratios), max(ratios)
            print(
                f"  {name:<26} {statistics.median(values):7.0f} images/s"
                f"   x {statistics.median(ratios):.2f} of the loop ({low:.2f} to {high:.2f})"
            )


def naive_loop(folder: Path, names: list[str], processor) -> None:
    from PIL import Image

    for name in names:
        with Image.open(folder / name) as image:
            processor(image.convert("RGB"), return_tensors="np")["pixel_values"]


def prepared(folder: Path, names: list[str], vision: VisionConfig, workers: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        write_image_shards(pa.array(names), ImageSources([folder]), vision, workers, Path(out))


def converted(folder: Path, names: list[str], vision: VisionConfig, pool) -> None:
    for _ in pool.map(partial(_convert, folder, vision), names, chunksize=16):
        pass


def _convert(folder: Path, vision: VisionConfig, name: str) -> bytes:
    return fit_jpeg((folder / name).read_bytes()[: LIMITS.max_bytes], vision)


def _photos(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _repeat(names: list[str], count: int) -> list[str]:
    return [names[index % len(names)] for index in range(count)]


# ---------------------------------------------------------------------------------------------- json


def measure_json(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        write_annotations(path, args.records, [f"{index}.jpg" for index in range(1000)])
        megabytes = path.stat().st_size / 1e6
        ways = {"json_elements (ours)": _ours, "json.load (whole file)": _whole, "ijson": _ijson}
        for name, read in ways.items():
            start = time.perf_counter()
            try:
                count = sum(1 for _ in read(path))
            except ImportError:
                print(f"  {name:<24} not installed")
                continue
            seconds = time.perf_counter() - start
            print(f"  {name:<24} {megabytes / seconds:6.0f} MB/s   ({count} records of {megabytes:.0f} MB)")


def _ours(path: Path) -> Iterator[object]:
    with open_text(path) as file:
        yield from json_elements(file)


def _whole(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8") as file:
        yield from json.load(file)


def _ijson(path: Path) -> Iterator[object]:
    import ijson

    with path.open("rb") as file:
        yield from ijson.items(file, "item", use_float=True)


# ---------------------------------------------------------------------------------------------- records


def measure_records(args: argparse.Namespace) -> None:
    args.work.mkdir(parents=True, exist_ok=True)
    images, annotations, out = (args.work / name for name in ("images", "records.json", "out"))
    names = _links(args.photos, images, args.images)
    faults = write_annotations(annotations, args.records, names)
    size = annotations.stat().st_size / 1e9
    print(
        f"{args.records} records ({size:.2f} GB) over {len(names)} images, {faults} of them faulty",
        flush=True,
    )
    command = [
        sys.executable,
        "-m",
        "trainer",
        "prepare",
        "--preset",
        "phi2",
        "--annotations",
        str(annotations),
    ]
    command += ["--images", str(images), "--out", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_memory_kib, _tree(process.pid))))
        time.sleep(0.5)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"prepare failed with {process.returncode}")
    report = json.loads((out / "report.json").read_text())
    by_reason = sum(entry["count"] for entry in report["dropped_by_reason"].values())
    assert report["read"] == args.records == report["kept"] + report["dropped"]
    assert report["dropped"] == by_reason == faults
    assert report["kept"] == report["train"] + report["val"] == sum(report["kept_by_kind"].values())
    print(
        f"prepared in {seconds:.0f} s, peak memory {peak / 1024:.0f} MiB "
        "(all processes, what they share counted once, mapped files included)"
    )
    print(f"counts add up: {report['read']} = {report['kept']} kept + {report['dropped']} dropped by reason")


def _tree(pid: int) -> list[int]:
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    children = " ".join(lists).split()
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _memory_kib(pid: int) -> int:
    """Resident memory, of what is shared with other processes only this one's part (PSS)."""
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _links(photos: Path, folder: Path, count: int) -> list[str]:
    """`count` names, each a link to one of the photographs."""
    originals = _photos(photos)
    names = []
    folder.mkdir(exist_ok=True)
    for index in range(count):
        original = photos.resolve() / originals[index % len(originals)]
        name = f"{index:09d}{original.suffix}"
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(original)
        names.append(name)
    return names


def write_annotations(path: Path, count: int, names: list[str]) -> int:
    """A LLaVA file with the proportions of the 665K mixture: one to seven turns, one in sixteen without an
    image, one in a thousand faulty. Returns how many are faulty."""
    rng = random.Random(0)
    words = (
        "a the man woman dog street with on in of red blue large small standing near sitting looking".split()
    )
    faults = 0
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            turns = []
            for turn in range(rng.randint(1, 7)):
                mark = "<image>\n" if turn == 0 and index % 16 else ""
                question = f"{mark}{' '.join(rng.choices(words, k=12))}?"
                answer = f"{index} {' '.join(rng.choices(words, k=rng.randint(5, 60)))}."
                turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            record = {"id": f"{index:012d}", "conversations": turns}
            if index % 16:
                record["image"] = names[index % len(names)]
            if index % 1000 == 500:
                faults += 1
                turns[-1]["value"] = ""
            file.write(("[" if index == 0 else ",\n") + json.dumps(record))
        file.write("]\n")
    return faults


if __name__ == "__main__":
    main()
