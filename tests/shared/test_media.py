"""Media decoding on real photographs, files that ffmpeg made, and every kind of file that must be refused."""

import io
import struct
import subprocess
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.config import VisionConfig
from shared.media import (
    SAMPLE_RATE,
    AudioLimits,
    ImageLimits,
    MediaError,
    decode_audio,
    decode_image,
    fit_image,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def refused(decode, data: bytes, code: str, **options) -> str:
    with pytest.raises(MediaError) as caught:
        decode(data, **options)
    assert caught.value.code == code
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- images


def test_photographs_become_the_pixels_pillow_reads(flickr_photos, coco_photos):
    for photo in [*flickr_photos[:20], *coco_photos[:20]]:
        image = decode_image(photo.path.read_bytes())
        assert image.mode == "RGB"
        assert np.array_equal(image, Image.open(photo.path).convert("RGB"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_each_format(photo, format):
    image = decode_image(encoded(photo, format, quality=95))
    assert (image.mode, image.size) == ("RGB", photo.size)
    assert np.abs(np.asarray(image, int) - np.asarray(photo, int)).mean() < 4


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.new("L", (8, 8), 77), {}, (77, 77, 77)),
        (Image.new("1", (8, 8), 1), {}, (255, 255, 255)),
        (Image.new("LA", (8, 8), (0, 0)), {}, (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (*RED, 255)), {}, RED),
        (Image.new("RGBA", (8, 8), (*RED, 0)), {}, (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (*RED, 128)), {}, (255, 127, 127)),
        (Image.new("RGB", (8, 8), BLUE).quantize(), {}, BLUE),
        (Image.new("RGB", (8, 8), BLUE).quantize(), {"transparency": 0}, (255, 255, 255)),
        (Image.new("RGB", (8, 8), BLUE), {"transparency": BLUE}, (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 0x80FF, np.uint16)), {}, (128, 128, 128)),
        (Image.new("RGB", (8, 8), RED), {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, RED),
    ],
    ids=["L", "1", "LA", "RGBA", "RGBA-clear", "RGBA-half", "P", "P-clear", "RGB-key", "I;16", "animation"],
)
def test_every_png_mode_becomes_rgb_over_white(image, options, expected):
    decoded = decode_image(encoded(image, "PNG", **options))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((4, 4)) == expected


def test_cmyk_jpeg():
    decoded = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert decoded.mode == "RGB"
    assert np.allclose(decoded.getpixel((4, 4)), RED, atol=3)


def test_webp_animation_gives_its_first_frame():
    frames = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), BLUE)], "lossless": True}
    assert decode_image(encoded(Image.new("RGB", (8, 8), RED), "WEBP", **frames)).getpixel((4, 4)) == RED


def test_exif_orientation_is_applied_and_broken_exif_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    turned = decode_image(encoded(photo, "JPEG", exif=exif, quality=95))
    assert turned.size == (photo.height, photo.width)
    upright = np.asarray(photo.transpose(Image.Transpose.ROTATE_270), int)
    assert np.abs(np.asarray(turned, int) - upright).mean() < 4
    assert decode_image(encoded(photo, "JPEG", exif=b"Exif\0\0not a TIFF block")).size == photo.size


SIZES = [(224, 224), (320, 240), (241, 613), (1000, 225), (7, 5), (1, 50), (3000, 61), (333, 224), (225, 226)]


@pytest.mark.parametrize("size", SIZES)
def test_cropping_is_pillows_resizing_and_cutting_out_the_middle(photo, size):
    image = photo.resize(size)
    scale = 224 / min(size)
    whole = image.resize([max(224, round(side * scale)) for side in size], Image.Resampling.BICUBIC)
    left, top = (whole.width - 224) // 2, (whole.height - 224) // 2
    assert_fitted(image, "crop", whole.crop((left, top, left + 224, top + 224)))


@pytest.mark.parametrize("size", SIZES)
def test_squashing_is_pillows_resizing(photo, size):
    image = photo.resize(size)
    assert_fitted(image, "squash", image.resize((224, 224), Image.Resampling.BICUBIC))


def assert_fitted(image: Image.Image, fit: str, expected: Image.Image) -> None:
    fitted = fit_image(image, VisionConfig(source="any", image_size=224, fit=fit))
    assert fitted.shape == (224, 224, 3) and fitted.dtype == np.uint8
    difference = np.abs(fitted.astype(int) - np.asarray(expected, int))
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01


def test_target_size_decodes_smaller_but_large_enough(photo):
    big = encoded(photo.resize((3200, 2400)), "JPEG")
    small = decode_image(big, target_size=224)
    assert 2 * 224 <= min(small.size) < 2 * 2 * 224
    whole = np.asarray(decode_image(big).resize((64, 48), Image.Resampling.BOX), int)
    assert np.abs(np.asarray(small.resize((64, 48), Image.Resampling.BOX), int) - whole).mean() < 2


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 9_000)])
def test_a_huge_image_is_refused_before_memory_is_spent(size):
    tracemalloc.start()
    message = refused(decode_image, png_header_only(*size), "too_large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{size[0]} x {size[1]} pixels; at most 50 megapixels" in message
    assert peak < 5_000_000


def test_image_limits_are_the_callers(photo_jpeg):
    assert "MiB" in refused(decode_image, photo_jpeg, "too_large", limits=ImageLimits(max_bytes=1000))
    assert "320 x 240" in refused(
        decode_image, photo_jpeg, "too_large", limits=ImageLimits(max_pixels=76_799)
    )
    assert decode_image(photo_jpeg, limits=ImageLimits(max_pixels=76_800)).size == (320, 240)
    assert "at most 300" in refused(decode_image, photo_jpeg, "too_large", limits=ImageLimits(max_side=300))


def test_a_strip_that_would_explode_when_resized_is_refused():
    assert "narrow" in refused(decode_image, encoded(Image.new("RGB", (1, 2000)), "PNG"), "invalid_image")
    assert decode_image(encoded(Image.new("RGB", (1, 1), RED), "PNG")).size == (1, 1)


def test_files_that_are_no_images(photo):
    for data in (b"just a text file\n" * 20, encoded(photo, "GIF"), encoded(photo, "BMP"), b"<svg></svg>"):
        assert "JPEG, PNG or WebP" in refused(decode_image, data, "unsupported_media_type")
    assert "empty" in refused(decode_image, b"", "invalid_image")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
def test_truncated_images(photo, format, kept):
    data = encoded(photo, format)
    assert "truncated" in refused(decode_image, data[: max(16, int(kept * len(data)))], "invalid_image")


def test_an_image_damaged_anywhere_is_read_or_refused_but_never_crashes(photo):
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "WEBP"):
        data = encoded(photo.resize((64, 48)), format)
        for _ in range(100):
            damaged = bytearray(data)
            for place in rng.integers(12, len(data), 8):
                damaged[place] = rng.integers(256)
            with suppress(MediaError):
                assert decode_image(bytes(damaged)).mode == "RGB"


# ---------------------------------------------------------------------------------------------- sound


def ffmpeg(target: Path, *arguments: str) -> bytes:
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", *arguments, str(target)], check=True, timeout=60)
    return target.read_bytes()


@pytest.fixture(scope="module")
def tone(tmp_path_factory) -> Path:
    """Two seconds of 440 Hz at half of full scale: 44.1 kHz, stereo, 16 bit."""
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    source = "aevalsrc=0.5*sin(440*2*PI*t)|0.5*sin(440*2*PI*t):s=44100:d=2"
    ffmpeg(path, "-f", "lavfi", "-i", source)
    return path


def assert_is_the_tone(audio: np.ndarray) -> None:
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert abs(len(audio) / SAMPLE_RATE - 2.0) < 0.1
    middle = audio[SAMPLE_RATE // 2 : SAMPLE_RATE * 3 // 2]
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert 0.2 < np.abs(middle).max() < 0.75  # six channels are mixed softer, one louder


@pytest.mark.parametrize(
    "options",
    [
        "wav",
        "wav -c:a pcm_u8",
        "wav -c:a pcm_s24le -ar 48000",
        "wav -c:a pcm_f32le -ac 1",
        "wav -c:a pcm_mulaw -ar 8000",
        "wav -ac 6",
        "aiff",
        "mp3",
        "mp3 -id3v2_version 0",
        "flac",
        "ogg -c:a libopus",
        "ogg -c:a libvorbis",
        "m4a",
        "m4a -c:a alac",
        "mp4 -movflags +faststart",
        "mov",
        "aac",
        "webm -c:a libopus",
        "mkv -c:a flac",
    ],
)
def test_each_sound_format(tone, tmp_path, options):
    suffix, *arguments = options.split()
    assert_is_the_tone(decode_audio(ffmpeg(tmp_path / f"sound.{suffix}", "-i", str(tone), *arguments)))


def test_stereo_is_mixed_without_clipping(tmp_path):
    source = "aevalsrc=0.9*sin(440*2*PI*t)|0.9*sin(440*2*PI*t):s=48000:d=1"
    audio = decode_audio(ffmpeg(tmp_path / "loud.flac", "-f", "lavfi", "-i", source))
    assert abs(np.abs(audio[4000:12000]).max() - 0.9) < 0.01


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_video_with_and_without_sound(tone, tmp_path, suffix):
    picture = ("-f", "lavfi", "-i", "testsrc=d=2:s=64x64:r=10")
    assert_is_the_tone(
        decode_audio(ffmpeg(tmp_path / f"with.{suffix}", *picture, "-i", str(tone), "-shortest"))
    )
    silent = ffmpeg(tmp_path / f"without.{suffix}", *picture)
    assert "video has no sound" in refused(decode_audio, silent, "invalid_audio")


def test_human_speech(librivox_clips):
    for clip in librivox_clips:
        audio = decode_audio(clip.path.read_bytes())
        raw = np.frombuffer(clip.path.read_bytes()[44:], "<i2")
        assert np.allclose(audio, raw / 32768.0, atol=1e-4)


def test_files_that_are_no_sound(photo_jpeg, tone, tmp_path):
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    concat = b"ffconcat version 1.0\nfile /etc/passwd\n"
    for data in (b"hello " * 100, photo_jpeg, playlist, concat, b"\0" * 5000, b"x"):
        assert "known format" in refused(decode_audio, data, "unsupported_media_type")
    assert "empty" in refused(decode_audio, b"", "invalid_audio")
    nothing = ffmpeg(tmp_path / "nothing.wav", "-i", str(tone), "-t", "0")
    refused(decode_audio, nothing, "invalid_audio")


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "ogg", "m4a", "webm"])
def test_a_truncated_header_is_refused(tone, tmp_path, suffix):
    data = ffmpeg(tmp_path / f"sound.{suffix}", "-i", str(tone))
    assert "truncated" in refused(decode_audio, data[:40], "invalid_audio")


def test_what_came_before_a_cut_is_kept(tone, tmp_path):
    data = ffmpeg(tmp_path / "sound.mp3", "-i", str(tone))
    assert 0.8 < len(decode_audio(data[: len(data) // 2])) / SAMPLE_RATE < 1.2


def test_damaged_sound_is_read_or_refused_but_never_crashes(tone, tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ("wav", "mp3", "flac", "ogg", "m4a", "webm"):
        data = ffmpeg(tmp_path / f"sound.{suffix}", "-i", str(tone), "-t", "0.5")
        for _ in range(20):
            damaged = bytearray(data)
            for place in rng.integers(12, len(data), 8):
                damaged[place] = rng.integers(256)
            with suppress(MediaError):
                assert np.isfinite(decode_audio(bytes(damaged))).all()


def test_audio_limits_are_the_callers(tone):
    data = tone.read_bytes()
    assert "1 seconds" in refused(decode_audio, data, "too_large", limits=AudioLimits(max_seconds=1))
    assert "MiB" in refused(decode_audio, data, "too_large", limits=AudioLimits(max_bytes=1000))
    message = refused(decode_audio, data, "too_large", limits=AudioLimits(max_decode_seconds=0))
    assert "too long to decode" in message


def wav(samples: np.ndarray, rate: int, tag: int) -> bytes:
    """A mono WAV file; `tag` 1 is integer, 3 is float."""
    width = samples.itemsize
    format = struct.pack("<HHIIHH", tag, 1, rate, rate * width, width, 8 * width)
    body = b"WAVEfmt " + struct.pack("<I", 16) + format + b"data" + struct.pack("<I", samples.nbytes)
    return b"RIFF" + struct.pack("<I", len(body) + samples.nbytes) + body + samples.tobytes()


def test_a_few_bytes_cannot_become_hours():
    """At 1 Hz a file would resample to 16,000 times its size."""
    file = wav(np.zeros(4000, np.uint8), rate=1, tag=1)
    assert "sample rate of 1 Hz" in refused(decode_audio, file, "invalid_audio")


def test_floats_beyond_full_scale_are_made_finite():
    audio = decode_audio(wav(np.array([np.nan, np.inf, -np.inf, 1e30] * 4000, "<f4"), SAMPLE_RATE, tag=3))
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() <= 1.0
