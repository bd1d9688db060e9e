"""The page's place in the application: loaded after the model, so that it delays nobody, then served at `/`.

Gradio takes seconds to import and brings routes of its own, at `/` and beside it. Only paths that it knows go
to it; all others get this service's own 404.
"""

import asyncio
import logging
import os
import shutil
import tempfile
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Message, Receive, Scope, Send

from service.runtime import Runtime

logger = logging.getLogger(__name__)

_WAITING = HTMLResponse(
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">'
    '<meta name="viewport" content="width=device-width"><title>Loading</title>'
    '<body style="font: 1.1rem system-ui, sans-serif; display: grid; place-items: center; height: 90vh">'
    "<p>The model is being loaded; this page opens by itself.</p></body></html>",
    503,
    headers={"Retry-After": "2"},
)
# The browser itself keeps the page from fetching anything from elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; object-src 'none'; form-action 'self'"
)


class PageRoute(BaseRoute):
    """Answers `/` and the paths of Gradio; keep it running with `async with page.loading(runtime)`."""

    path = "/"

    def __init__(self) -> None:
        self._gradio: FastAPI | None = None

    @asynccontextmanager
    async def loading(self, runtime: Runtime):
        """Loads the page in the background once the model is there; ends it with the context."""
        task = asyncio.create_task(self._run(runtime), name="page")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        if self._gradio is None:
            is_page = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
            return (Match.FULL, {"route": self}) if is_page else (Match.NONE, {})
        known = any(route.matches(scope)[0] is Match.FULL for route in self._gradio.routes)
        return (Match.FULL, {"route": self}) if known else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gradio is None:
            await _WAITING(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._gradio(scope, receive, send_with_policy)

    def url_path_for(self, name: str, /, **path_params: object) -> str:
        raise NoMatchFound(name, path_params)

    async def _run(self, runtime: Runtime) -> None:
        await runtime.loaded()
        if runtime.failed:
            return
        files = tempfile.mkdtemp(prefix="multimodal-llm-page-")
        os.environ["GRADIO_TEMP_DIR"] = files  # Gradio's only way to be told
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        try:
            gradio, lifespan = await asyncio.to_thread(_build, runtime)
            async with lifespan:
                self._gradio = gradio
                logger.info("the page is ready")
                await asyncio.Event().wait()
        except Exception:
            logger.exception("the page at / could not be opened; the other routes work")
        finally:
            self._gradio = None
            shutil.rmtree(files, ignore_errors=True)


def _build(runtime: Runtime):
    """Gradio's application and its lifespan."""
    from service.page.layout import mount  # Gradio comes with it

    host = FastAPI(openapi_url=None)
    mount(host, runtime)
    return host.routes[-1].app, host.router.lifespan_context(host)
