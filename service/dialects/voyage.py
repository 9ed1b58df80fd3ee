"""Voyage's format: Cohere's with `top_k` and `truncation`, and the results under `data`, one a document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from service.dialects.answers import RerankResponse, write_answer
from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.error_bodies import ErrorBody, write_error
from service.dialects.examples import PNG_URI, QUERY
from service.dialects.paths import shared_routes
from service.dialects.request_fields import read_query, validate
from service.dialects.ziprerank_request import RerankRequest
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery


class VoyageRequest(RerankRequest):
    truncation: bool | None = Field(None, description="accepted and ignored: nothing is cut")


@dataclass(frozen=True, slots=True)
class VoyageDialect:
    """Reads and writes the format."""

    name: str = "voyage"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = shared_routes(
        description="Rank documents as Voyage does, with one result each.",
        request=VoyageRequest,
        answer=RerankResponse,
        error=ErrorBody,
        examples={
            "voyage": {
                "model": "rerank-2.5",
                "query": QUERY,
                "documents": ["Revenue rose by 4 %.", PNG_URI],
                "top_k": 1,
                "truncation": True,
            }
        },
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return "documents" in fields and "top_n" not in fields and ("truncation" in fields or "top_k" in fields)

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        request = validate(VoyageRequest, body, head)
        return read_query(request, request.documents, head)

    def write(self, query: RerankQuery, answer: RerankAnswer) -> RerankResponse:
        return write_answer(query, answer)

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        """`detail` is always a text: the exception of Voyage's client cannot print a list."""
        body = write_error(error, request_id=request_id, query=query)
        return {**body, "detail": body["message"]}
