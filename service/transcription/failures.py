"""Why a recording was not transcribed. `str(error)` is a message for the client."""


class TranscriptionError(Exception):
    """The recording was not transcribed."""


class TranscriptionUnavailable(TranscriptionError):
    """No worker, or workers died over this recording: trying again later makes sense."""


class TranscriptionBusy(TranscriptionError):
    """Too many recordings are waiting."""


class TranscriptionTimeout(TranscriptionError):
    """The recording made no progress for as long as the operator allows."""


class UnsupportedOption(TranscriptionError):
    """The loaded models cannot do what is asked.

    Args:
        option: which of `TranscriptionOptions` asks it.
    """

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


class UnsupportedLanguage(UnsupportedOption):
    """The loaded Whisper model does not know the language."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "language")
