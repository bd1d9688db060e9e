"""uvicorn with a graceful end: on SIGTERM the service goes on answering what it has, and nothing new.

uvicorn alone closes its sockets first, so that a load balancer would meet refused connections instead of a
503 at /ready. Here the first signal starts the drain and the sockets close once the last answer is out.
"""

import asyncio
import logging
from types import FrameType

import uvicorn
from transformers.utils import logging as transformers_logging

from service.app import create_app
from service.runtime import Runtime
from service.settings import Settings

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """Drains at the first SIGTERM or SIGINT; a second one ends at once.

    Args:
        drain_timeout: seconds that running requests get.
    """

    def __init__(self, config: uvicorn.Config, runtime: Runtime, drain_timeout: float) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._drain_timeout = drain_timeout
        self._drain_ends: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_ends is not None:
            super().handle_exit(sig, frame)
            return
        self._runtime.drain()
        self._drain_ends = asyncio.get_running_loop().time() + self._drain_timeout

    async def on_tick(self, counter: int) -> bool:
        if self._drain_ends is not None and not self.should_exit:
            left = self._runtime.admission.requests
            late = asyncio.get_running_loop().time() > self._drain_ends
            if late and left:
                logger.warning("%d requests did not end within the drain timeout", left)
            self.should_exit = late or not left
        return await super().on_tick(counter)


def serve(settings: Settings) -> int:
    """Serves until a signal. Returns the exit code: 0, or 1 if the service could not start."""
    transformers_logging.disable_progress_bar()
    app = create_app(settings)
    runtime: Runtime = app.state.runtime
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # the root logger's format for all
        access_log=False,  # service.middleware logs one line a request, with its id
        timeout_graceful_shutdown=5,
    )
    server = DrainingServer(config, runtime, settings.drain_timeout)

    def give_up() -> None:
        server.should_exit = True

    runtime.on_failure = give_up
    server.run()
    return 1 if runtime.failed else 0
