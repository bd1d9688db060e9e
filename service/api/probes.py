"""Probes for whoever runs the service: is it alive, is it ready, how does it do. Open without a key."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.dependencies import RuntimeDependency
from service.api.schemas import ErrorBody

router = APIRouter(tags=["probes"])

NOT_READY = {503: {"model": ErrorBody, "description": "Not ready; the message says why."}}


@router.get("/live", summary="The process runs")
async def live() -> dict[str, str]:
    """Answers as soon as the process listens, also while the model loads."""
    return {"status": "live"}


@router.get("/ready", summary="Requests are taken in", responses=NOT_READY)
async def ready(runtime: RuntimeDependency) -> dict[str, str]:
    """503 with the reason while the model loads, while the service shuts down, or without a speech worker."""
    runtime.require_ready()
    return {"status": "ready"}


@router.get("/health", summary="How the parts are", responses={503: {"description": "The same, not ready."}})
async def health(runtime: RuntimeDependency) -> Response:
    """The state of every part; the status code is that of /ready."""
    reason = runtime.unready_reason()
    engine = runtime.engine.stats() if runtime.engine else None
    speech = runtime.transcriber
    body = {
        "status": "ready" if reason is None else "not ready",
        "reason": reason,
        "model": runtime.model.config.name if runtime.model else None,
        "engine": {"waiting": engine.waiting, "running": engine.running} if engine else None,
        "speech": None if speech is None else "ready" if speech.ready else "not ready",
    }
    return JSONResponse(body, 200 if reason is None else 503)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(request.app.state.metrics.render(), media_type=CONTENT_TYPE_LATEST)
