"""What is wrong with media, in words for the client, and what is checked of every file."""

from typing import Literal

MIB = 1024 * 1024

MediaErrorCode = Literal["unsupported_media_type", "invalid_image", "invalid_audio", "too_large"]


class MediaError(ValueError):
    """The media cannot be used. `str(error)` is a message for the client, `code` tells programs why."""

    def __init__(self, message: str, code: MediaErrorCode) -> None:
        super().__init__(message)
        self.code: MediaErrorCode = code


def check_bytes(data: bytes, max_bytes: int, what: str, code: MediaErrorCode) -> None:
    """Raises `MediaError` for a file that is empty or larger than `max_bytes`."""
    if not data:
        raise MediaError(f"The {what} file is empty.", code)
    if len(data) > max_bytes:
        raise MediaError(
            f"The {what} file is too large: {len(data) / MIB:.1f} MiB; "
            f"at most {max_bytes / MIB:g} MiB are accepted.",
            "too_large",
        )
