"""Multipart forms: read with limits, checked field by field, and described for the OpenAPI page.

FastAPI would read the whole upload before anything of ours runs; here a route first checks key, readiness
and queue, and then calls `read_form`. Text fields are a pydantic model; files are named with how many of
each may come. Every mistake is a 400 that names the field.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.errors import ApiError, bad_request, client_gone, from_validation

Fields = TypeVar("Fields", bound=BaseModel)


async def read_form(
    request: Request, schema: type[Fields], files: Mapping[str, int], *, max_text_bytes: int
) -> tuple[Fields, dict[str, list[bytes]]]:
    """The text fields of a multipart form as a `schema` and its files as bytes.

    Args:
        schema: the text fields; a field of type `list[...]` may be repeated, any other may not.
        files: the name of each file field and how many files it takes at most.
        max_text_bytes: largest text field.

    Raises:
        ApiError: 400 for an unknown, repeated, missing or wrong field; 415 for another kind of body; 413 from
            `service.middleware.BodyLimitMiddleware` while the body is read.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(415, "Send the request as multipart/form-data.", code="unsupported_media_type")
    total = sum(files.values())
    try:
        form = await request.form(max_files=total + 16, max_fields=64, max_part_size=max_text_bytes)
    except ClientDisconnect:
        raise client_gone() from None
    except HTTPException as error:
        raise bad_request(f"The form cannot be read: {error.detail}", code="invalid_form") from None
    try:
        return _fields(form, schema, files), {name: await _files(form, name, files[name]) for name in files}
    finally:
        await form.close()


def _fields(form: FormData, schema: type[Fields], files: Mapping[str, int]) -> Fields:
    known = {field.alias or name: field for name, field in schema.model_fields.items()}
    repeatable = {name for name, field in known.items() if "list" in str(field.annotation)}
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in files:
            continue
        if name not in known:
            names = ", ".join([*files, *known])
            raise bad_request(
                f"Unknown field {name[:80]!r}. The fields are {names}.", param=name[:80], code="unknown_field"
            )
        if isinstance(value, UploadFile):
            raise bad_request(f"The field {name!r} takes text, not a file.", param=name)
        if name in repeatable:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise bad_request(f"The field {name!r} may be given only once.", param=name)
        else:
            values[name] = value
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise from_validation(list(error.errors())) from None


async def _files(form: FormData, name: str, limit: int) -> list[bytes]:
    parts = form.getlist(name)
    if len(parts) > limit:
        times = "once" if limit == 1 else f"{limit} times"
        raise bad_request(f"The field {name!r} may be given {times} at most, not {len(parts)}.", param=name)
    for part in parts:
        if not isinstance(part, UploadFile):
            raise bad_request(f"The field {name!r} takes a file, not text.", param=name)
    return [await part.read() for part in parts]


def form_schema(
    schema: type[BaseModel], files: Mapping[str, str], *, several: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body with `read_form`.

    Args:
        schema: the text fields.
        files: the description of each file field.
        several: file fields that may be repeated.
    """
    body = schema.model_json_schema()
    uploads = {}
    for name, description in files.items():
        upload = {"type": "string", "format": "binary"}
        uploads[name] = {"type": "array", "items": upload} if name in several else upload
        uploads[name]["description"] = description
    body["properties"] = uploads | body.get("properties", {})
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": body}}}}
