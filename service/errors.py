"""The one error contract: what went wrong, in words for the caller, in the same JSON on every route.

`{"error": {"message", "type", "param", "code"}}`, which is also OpenAI's form, so native routes and /v1 (chat
and audio) share it: raise `ApiError` (or use one of the constructors below, `unsupported` for what OpenAI
offers and this service does not) anywhere under a route; everything else that can go wrong (an unknown path,
a wrong method, a bad form, a bug) is turned into the same shape here. Inside a stream that has begun, send
`service.api.streaming.data_event(error.body())` on /v1, which makes OpenAI's clients raise `APIError`. A
bug's traceback goes to the log under its request id, never into the message.
"""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.transcription import (
    TranscriptionBusy,
    TranscriptionError,
    TranscriptionTimeout,
    TranscriptionUnavailable,
    UnsupportedLanguage,
    UnsupportedOption,
)
from shared.media import MediaError


class ApiError(Exception):
    """An error for the client.

    Args:
        status: the HTTP status.
        message: one or two sentences for a person: what was wrong, where, what to do.
        code: a stable word for programs, such as `queue_full`.
        param: the form field or setting it is about, if it is about one.
        retry_after: seconds after which trying again makes sense; sent as the `Retry-After` header.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    @property
    def type(self) -> str:
        """The class of the error, as OpenAI's clients expect it."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        """The JSON body, also the data of a server-sent `error` event."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> ApiError:
    return ApiError(400, message, code=code, param=param)


def unsupported(param: str, message: str) -> ApiError:
    """A feature of OpenAI's API that this service does not have; `message` says what to do instead."""
    return bad_request(message, param=param, code="unsupported_parameter")


def unknown_model(name: str, known: str) -> ApiError:
    """A request on /v1 for a model that is not served here. `known`: what is."""
    return ApiError(
        404,
        f"There is no model {name[:80]!r} here; GET /v1/models lists them. Use {known!r}.",
        param="model",
        code="model_not_found",
    )


def internal_error() -> ApiError:
    """What a client is told about a bug: that it is ours, and the way to have it found in the log."""
    return ApiError(
        500,
        "The server failed to answer this request. Please report it with the x-request-id of this answer.",
        code="internal_error",
    )


def client_gone() -> ApiError:
    """nginx's 499, "client closed request": for log and metrics, since nobody is there to read it."""
    return ApiError(499, "The client closed the connection.", code="client_gone")


def from_validation(errors: list[Any], body: Any = None) -> ApiError:
    """pydantic's list of errors as one sentence a person understands, about the one that lies deepest.

    Args:
        body: the JSON that was validated, for the place of the error in it.
    """
    first = max(errors, key=lambda error: len(error["loc"]))
    where = _place(first, body) or None
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return bad_request(f"Unknown field {where!r}.", param=where, code="unknown_field")
    if kind == "missing":
        return bad_request(f"The field {where!r} is required.", param=where, code="missing_field")
    what = f"The field {where!r}" if where else "The request"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = context.get("expected_tags", "one of those described at /docs")
        given = f", not {context['tag'][:80]!r}" if "tag" in context else ""
        return bad_request(f"{what} must have as {context['discriminator']} {known}{given}.", param=where)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return bad_request(f"{what} should be an object.", param=where)
    reason = re.sub(r"^(Value error,|Input|String|List|Value) ", "", first["msg"])
    reason = reason.split(", unable to")[0].replace(" after validation", "")
    got = first.get("input")
    shown = f", not {str(got)[:80]!r}" if isinstance(got, str | int | float) else ""
    return bad_request(f"{what} {reason}{shown}.", param=where)


def _place(error: Any, body: Any) -> str:
    """Where a validation error is: the field of a form, or a place in JSON such as `messages[0].content`."""
    if body is None:
        parts = [part for part in error["loc"] if part not in ("body", "query", "path", "header")]
        return str(parts[0]) if parts else ""
    path, value = "", body
    for part in error["loc"]:
        try:
            value = value[part]
        except (TypeError, KeyError, IndexError):
            continue  # the name of a union's branch, not of something in the body
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if error["type"] == "missing":
        path += f".{error['loc'][-1]}"
    return path.removeprefix(".")


_MEDIA_STATUS = {"unsupported_media_type": 415, "too_large": 413}


def from_media(error: MediaError, param: str) -> ApiError:
    """An image or audio that cannot be used, sent as the form field `param`."""
    return ApiError(_MEDIA_STATUS.get(error.code, 400), str(error), code=error.code, param=param)


def from_transcription(error: TranscriptionError, param: str = "audio") -> ApiError:
    """A recording, sent as the field `param`, that was not transcribed."""
    match error:
        case TranscriptionBusy():
            return ApiError(429, str(error), code="queue_full", retry_after=5)
        case TranscriptionUnavailable():
            return ApiError(503, str(error), code="transcription_unavailable", retry_after=5)
        case TranscriptionTimeout():
            return ApiError(504, str(error), code="deadline_exceeded", param=param)
        case UnsupportedLanguage():
            return bad_request(str(error), param="language", code="unsupported_language")
        case UnsupportedOption():
            return bad_request(str(error), param=error.option, code="unsupported_option")
        case _:
            return ApiError(500, str(error), code="transcription_failed", param=param)


_HTTP_MESSAGES = {
    404: ("not_found", "There is nothing at {path}. The routes are described at /docs."),
    405: ("method_not_allowed", "{path} does not take {method}. The routes are described at /docs."),
}


def _from_http_exception(request: Request, error: HTTPException) -> ApiError:
    code, message = _HTTP_MESSAGES.get(error.status_code, ("http_error", str(error.detail)))
    message = message.format(path=request.url.path, method=request.method)
    return ApiError(error.status_code, message, code=code, headers=error.headers)


def install(app: FastAPI) -> None:
    """Registers the handlers that give every known failure the error contract.

    An exception of any other kind is answered by `service.middleware.RequestIdMiddleware`.
    """

    @app.exception_handler(ApiError)
    async def _(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        return from_validation(list(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        return _from_http_exception(request, error).response()
