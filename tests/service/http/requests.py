"""Requests to /rerank in both forms, and the check of a refusal."""

from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import TypeAdapter

from service.dialects.error_bodies import ErrorBody
from tests.servers import RunningService

ERROR_BODY = TypeAdapter(ErrorBody)


def rerank(
    service: RunningService,
    documents: Any,
    *,
    route: str = "/rerank",
    headers: Mapping[str, str] | None = None,
    **fields: Any,
) -> httpx.Response:
    """As JSON."""
    body = {"query": "locks", "documents": documents, **fields}
    return service.client.post(route, json=body, headers=headers)


def rerank_file(
    service: RunningService,
    file: tuple[str, bytes, str],
    *,
    query: str = "locks",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """As a form. file: name, content and media type."""
    return service.client.post("/rerank", data={"query": query}, files=[("file", file)], headers=headers)


def refused(response: httpx.Response, status: int, code: str, *mentions: str) -> dict[str, Any]:
    """The body of the refusal, which has the published form and all of these words in its message."""
    body = dict(response.json())
    ERROR_BODY.validate_python(body, extra="forbid")
    assert (response.status_code, body["code"]) == (status, code), body
    assert response.headers["content-type"] == "application/json"
    assert body["request_id"] == response.headers["x-request-id"]
    for mention in mentions:
        assert mention in body["message"], body["message"]
    return body
