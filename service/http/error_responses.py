"""Errors as HTTP responses: the body by the dialect of the route, the headers here."""

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.dialects.dialect import Dialect
from service.dialects.error_bodies import error_body
from service.error_meanings import FRAMEWORK_CODES
from service.errors import OverloadedError, ServiceError, UnauthorizedError, UnavailableError
from service.http.route_table import NATIVE
from service.records import RerankQuery

_DEFAULT_RETRY_AFTER_SECONDS = 1
_CODES = {status: code for code, status in FRAMEWORK_CODES.items()}
_MESSAGES = {404: "There is no such route; see /docs.", 405: "The route does not take this method."}


class JsonResponse(Response):
    """JSON by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def error_response(
    error: ServiceError, request_id: str, *, dialect: Dialect = NATIVE, query: RerankQuery | None = None
) -> JsonResponse:
    """query: of the failed request, where it could be read."""
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError | UnavailableError):
        headers["Retry-After"] = str(error.retry_after_seconds or _DEFAULT_RETRY_AFTER_SECONDS)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if error.code in ("draining", "request_timeout"):
        headers["Connection"] = "close"
    body = dialect.error(error, request_id=request_id, query=query)
    return JsonResponse(body, status_code=error.status, headers=headers)


def http_error_response(error: HTTPException, request_id: str) -> JsonResponse:
    """The response for an error of the framework: no such route, wrong method."""
    status = error.status_code
    body = error_body(
        status,
        _CODES.get(status, "invalid_request"),
        _MESSAGES.get(status, "The request could not be read."),
        request_id=request_id,
    )
    return JsonResponse(body, status_code=status, headers=dict(error.headers or {}))
