"""Second pass: every image checked, brought to the vision tower's size and put into shards, in parallel.

A shard holds the images of a fixed part of the names, so a stopped run goes on with the shards it lacks.
Threads read, this one writes; processes decode and resize, where threads would wait for one another's Python.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from PIL import Image
from tqdm import tqdm

from shared.config import VisionConfig
from shared.media import ImageLimits, MediaError, decode_image, fit_image
from shared.runtime import tune_process
from trainer.data.image_sources import ImageSources
from trainer.data.records import RecordError
from trainer.data.shards import IMAGES, new_shard, shard_name

SHARD = 4096  # images; 60 to 100 MB at 224 pixels
BATCH = 256
CHUNK = 8  # images that a process is sent at once
PART_BYTES = 4 * 2**20  # fewer, where they have this much
FEW = 256  # images that are done before processes would have started
LIMITS = ImageLimits()
_ORIENTATION = 0x0112

Converted = tuple[bytes | None, str | None]  # the JPEG file, or what is wrong with the image


def write_image_shards(
    names: pa.Array, sources: ImageSources, vision: VisionConfig, workers: int, folder: Path
) -> list[Path]:
    """Write the shards that `folder` lacks; row i of all of them together is the image `names[i]`."""
    paths = []
    with (
        _converter(vision, workers, len(names)) as convert,
        tqdm(total=len(names), desc="images", unit="image") as bar,
    ):
        for number, start in enumerate(range(0, len(names), SHARD)):
            part = names.slice(start, SHARD)
            path = folder / shard_name("images", number)
            paths.append(path)
            if path.is_file():
                bar.update(len(part))
                continue
            converted = convert(sources, part.to_pylist())
            with new_shard(path, IMAGES) as writer:
                for first in range(0, len(part), BATCH):
                    batch = part.slice(first, BATCH).to_pylist()
                    jpegs, errors = zip(*itertools.islice(converted, len(batch)), strict=True)
                    columns = [pa.array(batch), pa.array(jpegs, pa.binary()), pa.array(errors, pa.string())]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=IMAGES))
                    bar.update(len(batch))
    return paths


@contextlib.contextmanager
def _converter(
    vision: VisionConfig, workers: int, images: int
) -> Iterator[Callable[[ImageSources, list[str]], Iterator[Converted]]]:
    """What converts the images of a shard, in order: in processes where there is enough for them to do."""
    if workers == 1 or images <= FEW:
        yield partial(_convert_here, vision)
        return
    pool = ProcessPoolExecutor(workers, _context(), initializer=_begin)
    readers = ThreadPoolExecutor(workers + 2)  # two read while the others wait for their process
    try:
        yield partial(_convert, readers, pool, vision, 2 * workers + 2)
    except BrokenProcessPool as error:
        raise OSError(
            "a process that resizes images was killed, perhaps for memory: the same command goes on, with fewer "
            "--workers in less memory"
        ) from error
    finally:
        readers.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    """Of processes that share one import of torch, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, ends when that is gone, and computes with one thread."""
    tune_process(keep_freed_memory=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _convert_here(vision: VisionConfig, sources: ImageSources, names: list[str]) -> Iterator[Converted]:
    for name in names:
        yield from _fit_all(vision, [_read(sources, name)])


def _convert(
    readers: ThreadPoolExecutor,
    pool: ProcessPoolExecutor,
    vision: VisionConfig,
    ahead: int,
    sources: ImageSources,
    names: list[str],
) -> Iterator[Converted]:
    """Of every name in order; at most `ahead` chunks are begun before they are asked for."""
    pending: deque = deque()
    for start in range(0, len(names), CHUNK):
        if len(pending) == ahead:
            yield from pending.popleft().result()
        chunk = names[start : start + CHUNK]
        pending.append(readers.submit(_read_and_convert, pool, vision, sources, chunk))
    while pending:
        yield from pending.popleft().result()


def _read_and_convert(
    pool: ProcessPoolExecutor, vision: VisionConfig, sources: ImageSources, names: list[str]
) -> list[Converted]:
    """What a reading thread does; it holds one part of the files at a time."""
    converted: list[Converted] = []
    files: list[bytes | str] = []
    for name in names:
        files.append(_read(sources, name))
        if name == names[-1] or sum(map(len, files)) >= PART_BYTES:
            converted += pool.submit(_fit_all, vision, files).result()
            files = []
    return converted


def _read(sources: ImageSources, name: str) -> bytes | str:
    """The file, or what is wrong."""
    try:
        return sources.read(name, LIMITS.max_bytes + 1)
    except RecordError as error:
        return str(error)


def _fit_all(vision: VisionConfig, files: Iterable[bytes | str]) -> list[Converted]:
    return [(None, file) if isinstance(file, str) else _fit(vision, file) for file in files]


def _fit(vision: VisionConfig, file: bytes) -> Converted:
    try:
        return fit_jpeg(file, vision), None
    except MediaError as error:
        return None, str(error)


def fit_jpeg(data: bytes, vision: VisionConfig) -> bytes:
    """An image file to a JPEG file at the tower's size; one that is that already stays as it is, since
    compressing a second time would only lose.

    Raises:
        MediaError: the image cannot be used; says why.
    """
    image = decode_image(data, limits=LIMITS, target_size=vision.image_size)
    if image.size == (vision.image_size, vision.image_size) and _is_plain_jpeg(data):
        return data
    file = io.BytesIO()
    Image.fromarray(fit_image(image, vision)).save(file, "JPEG", quality=95)
    return file.getvalue()


def _is_plain_jpeg(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as original:
        return (
            original.format == "JPEG"
            and original.mode == "RGB"
            and original.getexif().get(_ORIENTATION, 1) == 1
        )
