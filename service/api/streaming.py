"""Server-sent events (WHATWG HTML, section 9.2) that end cleanly, whoever hangs up first."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


def server_sent_event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
"""Ends a stream of /v1."""


def data_event(data: dict[str, Any]) -> str:
    """An event without a name, as all of OpenAI's are: a chunk, or an error's body."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


class EventStream(StreamingResponse):
    """Sends events while they come. Starlette stops reading from `events` once the client is gone.

    Args:
        events: the events as text.
        resources: what the events need; closed when the stream is over, even if it never began.
    """

    def __init__(self, events: AsyncGenerator[str], resources: AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:
            self._resources.push_async_callback(self.body_iterator.aclose)
            await super().__call__(scope, receive, send)
