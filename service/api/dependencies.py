"""What routes share: the runtime, the deadline of a request, and noticing that its client is gone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from service.errors import ApiError, client_gone
from service.runtime import Runtime

Result = TypeVar("Result")


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


RuntimeDependency = Annotated[Runtime, Depends(_runtime)]


@asynccontextmanager
async def deadline(seconds: float, *, since: float) -> AsyncIterator[None]:
    """Gives up the work inside `seconds` after `since` (the event loop's clock).

    Raises:
        ApiError: 504.
    """
    try:
        async with asyncio.timeout_at(since + seconds):
            yield
    except TimeoutError:
        raise ApiError(
            504,
            f"The request was not answered within {seconds:g} seconds and was given up.",
            code="deadline_exceeded",
        ) from None


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Awaits `work`, and cancels it if the client goes away. The body must have been read before.

    Raises:
        ApiError: 499, the client is gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise client_gone()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
