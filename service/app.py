"""The application: routes, middleware, the error contract, and the life of what is behind them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI

from service import errors
from service.api import generate, probes, transcribe
from service.api.openapi import describe_bodies
from service.api.v1 import audio, chat, models
from service.api.v1.requests import ChatRequest
from service.metrics import Metrics
from service.middleware import BodyLimitMiddleware, MetricsMiddleware, RequestIdMiddleware
from service.page.route import PageRoute
from service.runtime import Runtime
from service.settings import Settings

DESCRIPTION = """\
Answers questions about photographs, text and speech with a multimodal language model, and transcribes speech.

Every error, on every route, is `{"error": {"message", "type", "param", "code"}}`. Every response has an
`x-request-id`; send your own, and it is taken over.
"""


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application. Its model loads in the background once the application starts."""
    metrics = Metrics()
    runtime = Runtime(settings, on_step=metrics.observe_step, on_answer=metrics.observe_generation)
    metrics.watch(runtime)
    page = PageRoute() if settings.page else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        async with page.loading(runtime) if page else nullcontext():
            yield
        await runtime.stop()

    app = FastAPI(title="Multimodal LLM", description=DESCRIPTION, version="0.1.0", lifespan=lifespan)
    app.state.runtime = runtime
    app.state.metrics = metrics
    errors.install(app)
    for resource in (generate, transcribe, chat, audio, models, probes):
        app.include_router(resource.router)
    if page:
        app.router.routes.append(page)
    describe_bodies(app, ChatRequest)
    # The last one added is the outermost.
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_upload_bytes)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(RequestIdMiddleware)
    return app
