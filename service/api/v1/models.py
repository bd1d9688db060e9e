"""GET /v1/models: what can be asked here, by the names that requests use."""

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from service.api.dependencies import RuntimeDependency
from service.api.schemas import ErrorBody, error_responses
from service.auth import require_key
from service.errors import unknown_model
from service.runtime import Runtime

SPEECH_MODEL = "whisper-1"
"""OpenAI's name of its Whisper; here, of whichever Whisper is loaded."""


class Model(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"id": "embedded", "object": "model", "created": 1764000000, "owned_by": "multimodal-llm"}
            ]
        }
    )

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "multimodal-llm"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


router = APIRouter(prefix="/v1/models", tags=["OpenAI-compatible"], dependencies=[Depends(require_key)])
_ERRORS = {status: response for status, response in error_responses().items() if status in (401, 500, 503)}


def _models(runtime: Runtime) -> list[Model]:
    runtime.require_ready()
    names = [runtime.model.config.name]
    if runtime.transcriber is not None:
        names.append(SPEECH_MODEL)
    return [Model(id=name, created=runtime.started_at) for name in names]


def require_model(runtime: Runtime, name: str) -> None:
    """Raises `ApiError` 404 unless `name` is the loaded model's."""
    known = runtime.model.config.name
    if name != known:
        raise unknown_model(name, known)


@router.get("", summary="The models served", responses=_ERRORS)
async def list_models(runtime: RuntimeDependency) -> ModelList:
    """The language model, and `whisper-1` for /v1/audio where speech is on."""
    return ModelList(data=_models(runtime))


@router.get(
    "/{model}",
    summary="One model",
    responses=_ERRORS | {404: {"model": ErrorBody, "description": "No such model."}},
)
async def get_model(model: str, runtime: RuntimeDependency) -> Model:
    """One entry of the list."""
    for known in _models(runtime):
        if known.id == model:
            return known
    raise unknown_model(model, runtime.model.config.name)
