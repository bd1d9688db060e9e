"""Client bytes -> an RGB image, at the vision tower's size, or mono 16 kHz sound, with every limit.

The only place where media is decoded: the trainer's `prepare` and the service both come here, so a
photograph gives the same pixels to both. Input is hostile: the container is told by its first bytes and its
decoder is forced, dimensions and durations are checked before memory is spent on them, nothing but the given
bytes is ever opened, and every failure is a `MediaError` whose text may be shown to the client.
"""

from shared.media.errors import MediaError, MediaErrorCode
from shared.media.images import ImageLimits, decode_image, fit_image
from shared.media.sound import SAMPLE_RATE, AudioLimits, decode_audio

__all__ = [
    "SAMPLE_RATE",
    "AudioLimits",
    "ImageLimits",
    "MediaError",
    "MediaErrorCode",
    "decode_audio",
    "decode_image",
    "fit_image",
]
