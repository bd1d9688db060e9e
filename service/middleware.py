"""What every request passes, whatever its route: its id, its measures, and the limit on its body.

Plain ASGI, not Starlette's BaseHTTPMiddleware, behind which a handler cannot see that its client is gone.
"""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ApiError, internal_error
from service.metrics import Metrics

logger = logging.getLogger(__name__)

PROBES = {"/live", "/ready", "/health", "/metrics"}
"""Routes that are asked every few seconds, and so kept out of the log."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware:
    """Gives every response an `x-request-id`, the client's own where it sent a sane one.

    It is the outermost layer, so it also answers for bugs: the traceback goes to the log under that id, the
    client gets the error contract.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if started:
                raise
            await internal_error().response()(scope, receive, send_with_id)


class MetricsMiddleware:
    """Counts requests and their latency by route and status, and logs one line for each."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.monotonic()
        status = 500

        async def watching_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watching_send)
        finally:
            seconds = time.monotonic() - begin
            # The route's pattern, not the path: a client must not be able to make up label values.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.observe_request(route, status, seconds)
            request_id = scope.get("state", {}).get("request_id", "-")
            level = logging.DEBUG if route in PROBES else logging.INFO
            what = (scope["method"], scope["path"], status, seconds * 1000, request_id)
            logger.log(level, "%s %s %d %.0f ms %s", *what)


class BodyLimitMiddleware:
    """Refuses a body of more than `max_bytes` while it arrives, with 413.

    Up to as many bytes again are read and dropped before the answer, since most clients look for an answer
    only after they have sent everything.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                await self._drop_rest(message, receive)
                raise self._too_large()
            return message

        await self._app(scope, limited_receive, send)

    async def _drop_rest(self, message: Message, receive: Receive) -> None:
        dropped = 0
        while message.get("more_body", False) and dropped < self._max_bytes:
            message = await receive()
            dropped += len(message.get("body", b""))

    def _too_large(self) -> ApiError:
        limit = f"{self._max_bytes / 2**20:g} MiB" if self._max_bytes >= 2**20 else f"{self._max_bytes} bytes"
        return ApiError(
            413, f"The request is too large: at most {limit} are accepted.", code="request_too_large"
        )
