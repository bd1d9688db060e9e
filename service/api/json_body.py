"""JSON bodies: read by the route itself, after it has checked key, readiness and queue.

FastAPI would read the body before anything of ours runs. Every mistake is a 400 that names the place.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from service.errors import ApiError, bad_request, client_gone, from_validation

Body = TypeVar("Body", bound=BaseModel)


async def read_json(
    request: Request, schema: type[Body], check: Callable[[dict[str, Any]], None] = lambda body: None
) -> Body:
    """The body as a `schema`.

    Args:
        check: sees the body before it is validated, and may raise `ApiError`.

    Raises:
        ApiError: 400 for what is not JSON or not a `schema`; 415 for another kind of body; 413 from
            `service.middleware.BodyLimitMiddleware` while the body is read.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send the request as application/json.", code="unsupported_media_type")
    try:
        data = await request.body()
    except ClientDisconnect:
        raise client_gone() from None
    # In a thread: images in base64 make bodies of many megabytes.
    return await asyncio.to_thread(_parse, data, schema, check)


def _parse(data: bytes, schema: type[Body], check: Callable[[dict[str, Any]], None]) -> Body:
    try:
        body = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    check(body)
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise from_validation(list(error.errors(include_url=False)), body) from None


def json_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body with `read_json`."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}
