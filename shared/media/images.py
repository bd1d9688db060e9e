"""JPEG, PNG and WebP to RGB images."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from shared.media.errors import MIB, MediaError, check_bytes

if TYPE_CHECKING:
    from shared.config import VisionConfig

SMALL = 500_000  # pixels


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost. The aspect ratio is limited because resizing the shorter side up multiplies the
    longer one: 1 x 16,000 pixels brought to a shorter side of 224 would be 800 megapixels."""

    max_bytes: int = 20 * MIB
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_aspect_ratio: float = 50.0


def decode_image(
    data: bytes, *, limits: ImageLimits = ImageLimits(), target_size: int | None = None
) -> Image.Image:
    """Decode a JPEG, PNG or WebP into an RGB image, upright by its EXIF orientation, transparency over white.

    Of an animation the first frame counts. `target_size` (pixels) is the shorter side the caller will shrink
    the image to: a big JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, never below twice that side,
    which is several times faster. Training and serving must pass the same value to see the same pixels.

    Raises `MediaError` for other formats, broken or truncated files, and images beyond the limits.
    """
    check_bytes(data, limits.max_bytes, "image", "invalid_image")
    open_image = _image_reader(data)
    if open_image is None:
        raise MediaError(
            "The image is not a JPEG, PNG or WebP file. Convert it to one of these formats.",
            "unsupported_media_type",
        )
    try:
        image = open_image(io.BytesIO(data))  # the header only
    except Exception:  # Pillow's parsers raise anything from SyntaxError to struct.error on a broken header
        raise _broken_image() from None
    _check_dimensions(*image.size, limits)
    try:
        if target_size is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (2 * target_size, 2 * target_size))
        image.load()
    except Exception:  # decoders too
        raise _broken_image() from None
    with suppress(Exception):  # a damaged EXIF block does not spoil a good photograph
        ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _image_reader(data: bytes) -> Callable[[io.BytesIO], ImageFile] | None:
    """Pillow's reader for the format that the first bytes announce. Not `Image.open`, whose own limit on
    pixels is a global of the process and says neither width nor height."""
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg_factory
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    return None


def _broken_image() -> MediaError:
    return MediaError(
        "The image file is broken or truncated and cannot be read. Check that it was sent whole.",
        "invalid_image",
    )


def _check_dimensions(width: int, height: int, limits: ImageLimits) -> None:
    if min(width, height) < 1:
        raise _broken_image()
    if width * height > limits.max_pixels:
        raise MediaError(
            f"The image is too large: {width} x {height} pixels; "
            f"at most {limits.max_pixels / 1e6:g} megapixels are accepted.",
            "too_large",
        )
    if max(width, height) > limits.max_side:
        raise MediaError(
            f"The image is too large: {width} x {height} pixels; a side may have at most {limits.max_side}.",
            "too_large",
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise MediaError(
            f"The image is too narrow: {width} x {height} pixels; "
            f"one side may be at most {limits.max_aspect_ratio:g} times the other.",
            "invalid_image",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip, not scale
        grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        return Image.fromarray(grey, "L").convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def fit_image(image: Image.Image, config: VisionConfig) -> np.ndarray:
    """The RGB image at the tower's size, `[image_size, image_size, 3]`, uint8: bicubic, antialiased.

    Torch resizes small images, twice as fast as Pillow and within two levels of 255 of its pixels; of large ones it
    would want a copy, and Pillow computes only what is kept of them.
    """
    size = config.image_size
    if image.size == (size, size):
        return np.array(image)
    if config.fit == "squash":
        width, height = size, size
    else:
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if image.width * image.height <= SMALL:
        return _resize(np.array(image), height, width)[top : top + size, left : left + size]
    across, down = image.width / width, image.height / height
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    box = (left * across, top * down, right, bottom)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    import torch  # not for processes that only hear
    from torch.nn.functional import interpolate

    channels_last = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = interpolate(channels_last, (height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
