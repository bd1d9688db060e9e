"""The life of the service's parts: loading in the background, ready, draining, stopped.

The HTTP side answers from the first moment; this module loads model and speech worker meanwhile, warms the
engine up, and says at any time why requests cannot be answered yet or any more.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import torch

from service.admission import Admission
from service.engine.interface import Engine, Generation, GenerationRequest, ImageInput, SamplingParams
from service.engine.load_decoder import DecoderUnavailable
from service.engine.make import make_engine
from service.errors import ApiError
from service.settings import Settings
from service.transcription import Transcriber, TranscriptionUnavailable
from shared.checkpoint import CheckpointError, load_model
from shared.model import MultimodalModel
from shared.prompt import Message, question_content

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5

KNOWN_FAILURES = (CheckpointError, DecoderUnavailable, TranscriptionUnavailable, FileNotFoundError)
"""Whose messages say all that an operator needs to know."""


class Runtime:
    """Everything behind the routes.

    Attributes:
        model, engine: None until loaded.
        transcriber: None if the operator turned speech off.
        failed: loading failed; the process is to end.
        on_failure: called then.

    Args:
        on_step: told the batch size of each decode step, in the engine's thread.
        on_answer: told each generation that came to its end, and how many of its tokens were images'.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_step: Callable[[int], None] = lambda rows: None,
        on_answer: Callable[[Generation, int], None] = lambda generation, image_tokens: None,
    ) -> None:
        self.settings = settings
        self.admission = Admission(max_requests=settings.max_requests, max_tokens=settings.max_queue_tokens)
        self.model: MultimodalModel | None = None
        self.engine: Engine | None = None
        self.transcriber = Transcriber(settings.transcription) if settings.transcription.enabled else None
        self.started_at = int(time.time())
        self.failed = False
        self.on_failure: Callable[[], None] = lambda: None
        self.on_answer = on_answer
        self._on_step = on_step
        self._warm = False
        self._draining = False
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to load; returns at once."""
        self._loading = asyncio.create_task(self._load(), name="loading")

    async def loaded(self) -> None:
        """Waits until everything is loaded or `failed`."""
        await asyncio.shield(self._loading)

    async def stop(self) -> None:
        """Ends worker and engine; what still runs in them fails."""
        self.drain()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self.transcriber is not None:
            await self.transcriber.stop()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop)

    def drain(self) -> None:
        """From now on, take no request in; running ones go on."""
        self._draining = True

    def unready_reason(self) -> str | None:
        """Why requests cannot be answered now, for a person; None if they can."""
        if self._draining:
            return "The service is shutting down."
        if self.failed:
            return "The service failed to start."
        if self.model is None:
            return "The model is being loaded."
        if not self._warm:
            return "The model is being warmed up."
        if self.transcriber is not None and not self.transcriber.ready:
            return "The speech model is being loaded."
        return None

    def require_ready(self) -> None:
        """Raises `ApiError` 503 while requests cannot be answered."""
        if (reason := self.unready_reason()) is not None:
            raise ApiError(503, f"{reason} Try again soon.", code="not_ready", retry_after=RETRY_SECONDS)

    # -------------------------------------------------------------------------------------------- loading

    async def _load(self) -> None:
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._load_model())
                if self.transcriber is not None:
                    group.create_task(self.transcriber.start())
        except* Exception as failures:
            for failure in failures.exceptions:
                known = isinstance(failure, KNOWN_FAILURES)
                logger.error("cannot start: %s", failure, exc_info=None if known else failure)
            self.failed = True
            self.on_failure()
        else:
            logger.info("ready after %.1f s", time.monotonic() - started)

    async def _load_model(self) -> None:
        settings = self.settings
        model = await asyncio.to_thread(
            load_model, settings.checkpoint, dtype=settings.dtype, device=settings.device
        )
        self.engine = await asyncio.to_thread(make_engine, model, settings, on_step=self._on_step)
        self.engine.start(asyncio.get_running_loop())
        self.model = model
        await self._warm_up(model, self.engine)
        self._warm = True

    @staticmethod
    async def _warm_up(model: MultimodalModel, engine: Engine) -> None:
        """An image and a few tokens, so that no request pays for what happens the first time."""
        prompt = model.prompt.encode([Message("user", question_content("Hello!", images=1))])
        size = model.config.vision.image_size
        image = ImageInput(b"warm-up", torch.zeros(3, size, size))
        request = GenerationRequest(prompt.input_ids, (image,), SamplingParams(max_new_tokens=4))
        async for _ in engine.submit(request):
            pass
