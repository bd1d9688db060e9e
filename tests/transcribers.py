"""The real transcriber, for tests that start their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.settings import TranscriptionSettings
from service.transcription import Transcriber


@asynccontextmanager
async def started(**settings: object) -> AsyncIterator[Transcriber]:
    """A ready transcriber; behind it, its worker process is gone."""
    transcriber = Transcriber(TranscriptionSettings(**settings))
    await transcriber.start()
    try:
        yield transcriber
    finally:
        await transcriber.stop()
        assert not transcriber.alive
