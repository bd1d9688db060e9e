"""Second pass: every image checked, brought to the vision tower's size and put into shards, in parallel.

A shard holds the images of a fixed part of the names, so a stopped run goes on with the shards it lacks.
"""

from __future__ import annotations

import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from shared.config import VisionConfig
from shared.media import ImageLimits, MediaError, decode_image, fit_image
from trainer.data.image_sources import ImageSources
from trainer.data.records import RecordError
from trainer.data.shards import IMAGES, new_shard, shard_name

SHARD = 4096  # images; 60 to 100 MB at 224 pixels
BATCH = 256
LIMITS = ImageLimits()
_ORIENTATION = 0x0112


def write_image_shards(
    names: pa.Array, sources: ImageSources, vision: VisionConfig, workers: int, folder: Path
) -> list[Path]:
    """Write the shards that `folder` lacks; row i of all of them together is the image `names[i]`."""

    def convert(name: str) -> tuple[bytes | None, str | None]:
        try:
            return fit_jpeg(sources.read(name, LIMITS.max_bytes + 1), vision), None
        except (MediaError, RecordError) as error:
            return None, str(error)

    paths = []
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(names), desc="images", unit="image") as bar:
        for number, start in enumerate(range(0, len(names), SHARD)):
            part = names.slice(start, SHARD)
            path = folder / shard_name("images", number)
            paths.append(path)
            if path.is_file():
                bar.update(len(part))
                continue
            converted = pool.map(convert, part.to_pylist())  # goes on while a batch is written
            with new_shard(path, IMAGES) as writer:
                for first in range(0, len(part), BATCH):
                    batch = part.slice(first, BATCH).to_pylist()
                    jpegs, errors = zip(*itertools.islice(converted, len(batch)), strict=True)
                    columns = [pa.array(batch), pa.array(jpegs, pa.binary()), pa.array(errors, pa.string())]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=IMAGES))
                    bar.update(len(batch))
    return paths


def fit_jpeg(data: bytes, vision: VisionConfig) -> bytes:
    """An image file to a JPEG file at the tower's size; one that is that already stays as it is, since
    compressing a second time would only lose.

    Raises:
        MediaError: the image cannot be used; says why.
    """
    image = decode_image(data, limits=LIMITS)
    if image.size == (vision.image_size, vision.image_size) and _is_plain_jpeg(data):
        return data
    file = io.BytesIO()
    fit_image(image, vision).save(file, "JPEG", quality=95)
    return file.getvalue()


def _is_plain_jpeg(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as original:
        return (
            original.format == "JPEG"
            and original.mode == "RGB"
            and original.getexif().get(_ORIENTATION, 1) == 1
        )
