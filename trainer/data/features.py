"""Vision features of every image, computed once: the tower is frozen, so no step needs to run it again.

A memory-mapped float16 array `[images, views, patches, width]` beside the prepared data; its name holds
a hash of the vision configuration and of every image's name and version, so another tower or a changed
image gets another file. Computing stops and continues: the index counts the finished images.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from shared.config import VisionConfig
from shared.media import MediaError, decode_image
from shared.vision import VisionTower

log = logging.getLogger(__name__)

RESIZING = 2  # counts the ways in which decode_image and fit_image have brought an image to the tower's size


class Images(Protocol):
    """Where image files come from, by name."""

    def read(self, name: str) -> bytes:
        """The file's bytes."""

    def version(self, name: str) -> str:
        """Another text where the image has changed."""


class ImageFolder:
    """Files in a folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def version(self, name: str) -> str:
        status = (self._folder / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"


class FeatureCache:
    """Read access by image name."""

    def __init__(self, path: Path, names: list[str], shape: tuple[int, ...]):
        self._array = np.memmap(path, dtype=np.float16, mode="r", shape=shape)
        self._rows = {name: row for row, name in enumerate(names)}
        self.views = shape[1]

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def get(self, names: list[str], views: list[int] | None = None) -> Tensor:
        """Features `[images, patches, width]`, float32; view 0 is the image, view 1 its mirror image."""
        rows = [self._rows[name] for name in names]
        return torch.from_numpy(self._array[rows, views or [0] * len(rows)].astype(np.float32))

    def mean(self, limit: int = 1000) -> Tensor:
        """The mean features `[patches, width]` of the first `limit` images: what a blind model sees."""
        return torch.from_numpy(self._array[:limit, 0].mean(axis=0, dtype=np.float32))


def build_features(
    tower: VisionTower,
    names: list[str],
    images: Images,
    folder: Path,
    *,
    mirror: bool = False,
    batch_size: int = 32,
) -> FeatureCache:
    """Open the cache of `names` in `folder`, computing what it lacks.

    Raises:
        ValueError: an image's features are not finite in float16, or an image cannot be read.
    """
    views = 2 if mirror else 1
    stem = f"features-{_digest(tower.config, images, names, views)}"
    path, index = folder / f"{stem}.f16", folder / f"{stem}.json"
    shape = (len(names), views, tower.num_patches, tower.width)
    if _finished(path, index) < len(names):
        lock = FileLock(folder / f"{stem}.lock")  # another run on the same data waits, and then finds them
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.info("another run is computing the vision features: waiting for it")
            held = lock.acquire()
        with held:
            _compute(tower, names, images, path, index, shape, batch_size)
    return FeatureCache(path, names, shape)


def _finished(path: Path, index: Path) -> int:
    """Images whose features are there."""
    return json.loads(index.read_text())["done"] if index.is_file() and path.is_file() else 0


def _compute(
    tower: VisionTower,
    names: list[str],
    images: Images,
    path: Path,
    index: Path,
    shape: tuple[int, ...],
    batch_size: int,
) -> None:
    done = _finished(path, index)
    if done == len(names):
        return
    log.info("vision features of %d images into %s", len(names) - done, path.name)
    array = np.memmap(path, dtype=np.float16, mode="r+" if done else "w+", shape=shape)
    device = tower.mean.device
    for start in tqdm(range(done, len(names), batch_size), desc="features", unit="batch"):
        batch = names[start : start + batch_size]
        loaded = [_decode(images, name, tower.config.image_size) for name in batch]
        if shape[1] == 2:
            loaded = [view for image in loaded for view in (image, ImageOps.mirror(image))]
        features = tower(tower.preprocess(loaded).to(device)).cpu().to(torch.float16)
        features = features.numpy().reshape(-1, *shape[1:])
        finite = np.isfinite(features).all(axis=(1, 2, 3))
        if not finite.all():
            raise ValueError(f"image {batch[int(finite.argmin())]}: its features are not finite in float16")
        array[start : start + batch_size] = features
        if (start // batch_size) % 20 == 19:
            _write_index(array, index, start + batch_size)
    _write_index(array, index, len(names))


def _decode(images: Images, name: str, size: int) -> Image.Image:
    try:
        return decode_image(images.read(name), target_size=size)
    except MediaError as error:
        raise ValueError(f"image {name}: {error}") from error


def _write_index(array: np.memmap, index: Path, done: int) -> None:
    array.flush()
    scratch = index.with_suffix(".partial")
    scratch.write_text(json.dumps({"done": done, "shape": array.shape}))
    scratch.rename(index)


def _digest(config: VisionConfig, images: Images, names: list[str], views: int) -> str:
    digest = hashlib.sha256(f"{config.model_dump_json()}\n{views}\n{RESIZING}".encode())
    for name in names:
        digest.update(f"\n{name} {images.version(name)}".encode())
    return digest.hexdigest()[:12]
