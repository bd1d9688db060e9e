"""The optional API key: one shared secret, sent as a bearer token."""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import ApiError

_bearer = HTTPBearer(auto_error=False, description="Only where the operator has set an API key.")


async def require_key(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """A route's dependency: refuses a request without the operator's key, if there is one.

    Raises:
        ApiError: 401.
    """
    key = request.app.state.runtime.settings.api_key
    if key is None:
        return
    given = credentials.credentials if credentials else ""
    if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
        what = "The API key is wrong." if given else "An API key is needed."
        raise ApiError(
            401,
            f"{what} Send it as the header `Authorization: Bearer KEY`.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
