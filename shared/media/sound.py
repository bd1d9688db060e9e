"""Recordings, and the sound of videos, to mono 16 kHz samples."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from shared.media.errors import MIB, MediaError, check_bytes

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio import AudioStream
    from av.container import InputContainer

SAMPLE_RATE = 16_000

# Decoders that may open, by FFmpeg's names; PCM of every width comes on top.
_COMPRESSED = ("aac", "adpcm_ima_wav", "adpcm_ms", "alac", "flac", "mp3", "mp3float", "opus", "vorbis")
# Outside these rates a few bytes would resample to hours of sound.
_MIN_RATE, _MAX_RATE = 4_000, 384_000
_MAX_CHANNELS = 32
_GROWTH = 300 * SAMPLE_RATE


@dataclass(frozen=True)
class AudioLimits:
    """What a recording may cost: `max_seconds` of sound, `max_decode_seconds` of wall-clock time."""

    max_bytes: int = 200 * MIB
    max_seconds: float = 4 * 3600.0
    max_decode_seconds: float = 120.0


def decode_audio(data: bytes, *, limits: AudioLimits = AudioLimits()) -> np.ndarray:
    """Decode the first sound track of a file into mono 16 kHz float32 `[samples]` within [-1, 1].

    WAV, AIFF, FLAC, MP3, AAC, Ogg (Opus, Vorbis, FLAC), MP4/M4A/MOV and WebM/Matroska, so also a video's
    sound. Damaged packets are passed over, as players do. Decoded block by block: memory is the result and
    little more.

    Raises `MediaError` for other formats, broken files, files without sound, and sound beyond the limits.
    """
    check_bytes(data, limits.max_bytes, "audio", "invalid_audio")
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
