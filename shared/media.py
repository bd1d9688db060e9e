"""Client bytes -> an RGB image, at the vision tower's size, or mono 16 kHz sound, with every limit.

The only place where media is decoded: the trainer's `prepare` and the service both come here, so a
photograph gives the same pixels to both. Input is hostile: the container is told by its first bytes and its
decoder is forced, dimensions and durations are checked before memory is spent on them, nothing but the given
bytes is ever opened, and every failure is a `MediaError` whose text may be shown to the client.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio import AudioStream
    from av.container import InputContainer

    from shared.config import VisionConfig

SAMPLE_RATE = 16_000
MIB = 1024 * 1024

MediaErrorCode = Literal["unsupported_media_type", "invalid_image", "invalid_audio", "too_large"]


class MediaError(ValueError):
    """The media cannot be used. `str(error)` is a message for the client, `code` tells programs why."""

    def __init__(self, message: str, code: MediaErrorCode) -> None:
        super().__init__(message)
        self.code: MediaErrorCode = code


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost. The aspect ratio is limited because resizing the shorter side up multiplies the
    longer one: 1 x 16,000 pixels brought to a shorter side of 224 would be 800 megapixels."""

    max_bytes: int = 20 * MIB
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_aspect_ratio: float = 50.0


@dataclass(frozen=True)
class AudioLimits:
    """What a recording may cost: `max_seconds` of sound, `max_decode_seconds` of wall-clock time."""

    max_bytes: int = 200 * MIB
    max_seconds: float = 4 * 3600.0
    max_decode_seconds: float = 120.0


# ---------------------------------------------------------------------------------------------- images


def decode_image(
    data: bytes, *, limits: ImageLimits = ImageLimits(), target_size: int | None = None
) -> Image.Image:
    """Decode a JPEG, PNG or WebP into an RGB image, upright by its EXIF orientation, transparency over white.

    Of an animation the first frame counts. `target_size` (pixels) is the shorter side the caller will shrink
    the image to: a big JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, never below twice that side,
    which is several times faster. Training and serving must pass the same value to see the same pixels.

    Raises `MediaError` for other formats, broken or truncated files, and images beyond the limits.
    """
    _check_bytes(data, limits.max_bytes, "image", "invalid_image")
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


def fit_image(image: Image.Image, config: VisionConfig) -> Image.Image:
    """The RGB image at the tower's size, `image_size` x `image_size`."""
    size = config.image_size
    if image.size == (size, size):
        return image
    if config.fit == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    across, down = image.width / width, image.height / height  # only what stays is computed
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    box = (left * across, top * down, right, bottom)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


# ---------------------------------------------------------------------------------------------- sound

# Decoders that may open, by FFmpeg's names; PCM of every width comes on top.
_COMPRESSED = ("aac", "adpcm_ima_wav", "adpcm_ms", "alac", "flac", "mp3", "mp3float", "opus", "vorbis")
# Outside these rates a few bytes would resample to hours of sound.
_MIN_RATE, _MAX_RATE = 4_000, 384_000
_MAX_CHANNELS = 32
_GROWTH = 300 * SAMPLE_RATE


def decode_audio(data: bytes, *, limits: AudioLimits = AudioLimits()) -> np.ndarray:
    """Decode the first sound track of a file into mono 16 kHz float32 `[samples]` within [-1, 1].

    WAV, AIFF, FLAC, MP3, AAC, Ogg (Opus, Vorbis, FLAC), MP4/M4A/MOV and WebM/Matroska, so also a video's
    sound. Damaged packets are passed over, as players do. Decoded block by block: memory is the result and
    little more.

    Raises `MediaError` for other formats, broken files, files without sound, and sound beyond the limits.
    """
    _check_bytes(data, limits.max_bytes, "audio", "invalid_audio")
    demuxer = _sniff_audio(data)
    if demuxer is None:
        raise MediaError(
            "The audio is not in a known format. Send WAV, FLAC, MP3, AAC, Ogg/Opus, M4A/MP4 or WebM.",
            "unsupported_media_type",
        )
    import av  # here, so that the trainer, which has no sound, does without it

    samples = np.empty(0, np.float32)
    filled = 0
    try:
        with av.open(
            io.BytesIO(data),
            format=demuxer,
            options={"codec_whitelist": ",".join(_decoders())},  # so that probing opens no video decoder
            metadata_errors="ignore",
            timeout=limits.max_decode_seconds,
            io_open=_refuse_other_files,
        ) as container:
            for block in _blocks(container, _sound_track(container), limits):
                if filled + len(block) > len(samples):
                    samples.resize(filled + len(block) + _GROWTH, refcheck=False)
                samples[filled : filled + len(block)] = block
                filled += len(block)
    except av.ExitError:
        raise _too_slow() from None
    except (av.FFmpegError, ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, MediaError):
            raise
        raise _broken_audio() from None
    if filled == 0:
        raise MediaError("The audio file has no sound in it: its length is 0 seconds.", "invalid_audio")
    samples.resize(filled, refcheck=False)
    return samples


def _sniff_audio(data: bytes) -> str | None:
    """FFmpeg's name of the container that the first bytes announce."""
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if data[4:8] == b"ftyp":
        return "mov"
    for magic, demuxer in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1a\x45\xdf\xa3", "matroska")):
        if data.startswith(magic):
            return demuxer
    if data[:3] == b"ID3" and len(data) > 10:  # a tag before MP3, sometimes before AAC or FLAC
        size = sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
        return _sniff_audio(data[10 + size : 10 + size + 64]) or "mp3"
    if len(data) > 2 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:  # MPEG frame sync; layer 0 is AAC's
        return "aac" if data[1] & 0x06 == 0 else "mp3"
    return None


@cache
def _decoders() -> frozenset[str]:
    from av.codec import codecs_available

    return frozenset(_COMPRESSED).union(name for name in codecs_available if name.startswith("pcm_"))


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> None:
    raise MediaError("The audio file refers to other files, which is not accepted.", "invalid_audio")


def _broken_audio() -> MediaError:
    return MediaError(
        "The audio file is broken or truncated and cannot be decoded. Check that it was sent whole.",
        "invalid_audio",
    )


def _too_slow() -> MediaError:
    return MediaError("The audio takes too long to decode. Send a shorter or simpler file.", "too_large")


def _sound_track(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        what = "The video has no sound track." if container.streams.video else "The file has no sound track."
        raise MediaError(what, "invalid_audio")
    track = container.streams.audio[0]
    codec = track.codec_context
    if codec.name not in _decoders():
        raise MediaError(
            f"The audio codec {codec.codec.canonical_name} is not supported.", "unsupported_media_type"
        )
    if codec.sample_rate < 1 or codec.channels < 1:
        raise _broken_audio()
    if not _MIN_RATE <= codec.sample_rate <= _MAX_RATE:
        raise MediaError(
            f"The audio's sample rate of {codec.sample_rate} Hz is not supported; "
            f"{_MIN_RATE} to {_MAX_RATE} Hz are.",
            "invalid_audio",
        )
    if codec.channels > _MAX_CHANNELS:
        raise MediaError(
            f"The audio has {codec.channels} channels; at most {_MAX_CHANNELS} are accepted.", "invalid_audio"
        )
    return track


def _blocks(container: InputContainer, track: AudioStream, limits: AudioLimits) -> Iterator[np.ndarray]:
    """Mono 16 kHz blocks `[samples]`; a stream that changes its rate or layout midway is followed."""
    from av import AudioResampler

    resampler, signature, seconds = None, None, 0.0
    for frame in _frames(container, track, time.monotonic() + limits.max_decode_seconds):
        seconds += frame.samples / max(frame.sample_rate, 1)
        if seconds > limits.max_seconds:
            raise MediaError(
                f"The audio is too long: at most {limits.max_seconds:g} seconds are accepted.", "too_large"
            )
        current = (frame.format.name, frame.layout.name, frame.sample_rate)
        if current != signature:
            if not _MIN_RATE <= frame.sample_rate <= _MAX_RATE:
                raise _broken_audio()
            yield from _drain(resampler, None)
            # FFmpeg mixes float channels so that their power stays, which clips; this keeps the peak instead
            options = {"rematrix_maxval": "1.0"}
            resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE, options=options)
            signature = current
        frame.pts = None  # gaps in the time stamps are not sound
        yield from _drain(resampler, frame)
    yield from _drain(resampler, None)


def _frames(container: InputContainer, track: AudioStream, deadline: float) -> Iterator[AudioFrame]:
    from av import InvalidDataError

    packets = container.demux(track)
    while True:
        if time.monotonic() > deadline:
            raise _too_slow()
        try:
            packet = next(packets)
        except (StopIteration, InvalidDataError):  # what came before a damaged end still counts
            return
        try:
            yield from packet.decode()
        except InvalidDataError:
            continue


def _drain(resampler, frame: AudioFrame | None) -> Iterator[np.ndarray]:
    if resampler is None:
        return
    for block in resampler.resample(frame):
        # float WAV files can hold NaN and values beyond full scale
        yield np.clip(np.nan_to_num(block.to_ndarray()[0]), -1.0, 1.0)


def _check_bytes(data: bytes, max_bytes: int, what: str, code: MediaErrorCode) -> None:
    if not data:
        raise MediaError(f"The {what} file is empty.", code)
    if len(data) > max_bytes:
        raise MediaError(
            f"The {what} file is too large: {len(data) / MIB:.1f} MiB; "
            f"at most {max_bytes / MIB:g} MiB are accepted.",
            "too_large",
        )
