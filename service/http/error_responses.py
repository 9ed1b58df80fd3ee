"""Errors as HTTP answers: one JSON body that clients of every rerank API can read. Knows no routes."""

from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from service.errors import OverloadedError, ServiceError, UnauthorizedError, UnavailableError

_DEFAULT_RETRY_AFTER_SECONDS = 1


class JsonResponse(Response):
    """JSON by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def error_response(error: ServiceError, request_id: str) -> JsonResponse:
    """The answer for one of our own errors."""
    body = error_body(
        error.status,
        error.code,
        error.message,
        request_id=request_id,
        param=error.param,
        document_index=error.document_index,
        page=error.page,
    )
    return JsonResponse(body, status_code=error.status, headers=_headers(error))


def plain_error_response(
    status: int, code: str, message: str, request_id: str, headers: dict[str, str] | None = None
) -> JsonResponse:
    """The answer for what never reached our code: no such route, wrong method, a bug."""
    return JsonResponse(error_body(status, code, message, request_id=request_id), status_code=status, headers=headers)


def error_body(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    param: str | None = None,
    document_index: int | None = None,
    page: int | None = None,
) -> dict[str, Any]:
    """problem+json's members, Cohere's `message`, OpenAI's `error`, and `detail`, which is a list for 422 alone."""
    location = ["body"] if document_index is None else ["body", "documents", document_index]
    return {
        "id": request_id,
        "message": message,
        "detail": [{"loc": location, "msg": message, "type": code}] if status == 422 else message,
        "error": {"message": message, "type": _error_type(status), "param": param, "code": code},
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "document_index": document_index,
        "page": page,
        "request_id": request_id,
    }


def _error_type(status: int) -> str:
    named = {401: "authentication_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")


def _headers(error: ServiceError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError | UnavailableError):
        headers["Retry-After"] = str(error.retry_after_seconds or _DEFAULT_RETRY_AFTER_SECONDS)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if error.code in ("draining", "request_timeout"):
        headers["Connection"] = "close"
    return headers
