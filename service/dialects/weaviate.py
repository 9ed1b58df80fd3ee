"""Weaviate's reranker-transformers module: strings in, their scores out, in the order in which they were sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from typing_extensions import TypedDict

from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.document_fields import DocumentList
from service.dialects.error_bodies import message_and_param
from service.dialects.examples import QUERY, REGISTERED_ID
from service.dialects.paths import shared_routes
from service.dialects.request_fields import QueryFields, one_result_each, read_query, validate
from service.dialects.results import results_of, shown_text
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery


class WeaviateRequest(QueryFields):
    documents: DocumentList
    property: str | None = Field(None, description="accepted and ignored: the name that the documents have in Weaviate")


class WeaviateScore(TypedDict):
    document: str
    score: float


class WeaviateResponse(TypedDict):
    query: str
    scores: list[WeaviateScore]


class WeaviateError(TypedDict):
    error: str
    code: str
    request_id: str


@dataclass(frozen=True, slots=True)
class WeaviateDialect:
    """Reads and writes the format."""

    name: str = "weaviate"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = shared_routes(
        description="Score strings as Weaviate's reranker-transformers module sends them.",
        request=WeaviateRequest,
        answer=WeaviateResponse,
        error=WeaviateError,
        examples={
            "weaviate": {
                "query": QUERY,
                "documents": ["Revenue rose by 4 %.", f"ziprerank://{REGISTERED_ID}#page=2"],
                "property": "body",
            }
        },
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return "property" in fields and "documents" in fields

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        request = validate(WeaviateRequest, body, head)
        return one_result_each(read_query(request, request.documents, head))

    def write(self, query: RerankQuery, answer: RerankAnswer) -> WeaviateResponse:
        results = sorted(results_of(query, answer).items, key=lambda result: result.page.document_index)
        scores = [WeaviateScore(document=shown_text(query, result.page), score=result.score) for result in results]
        return WeaviateResponse(query=query.text, scores=scores)

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> WeaviateError:
        message, _ = message_and_param(error, query)
        return WeaviateError(error=message, code=error.code, request_id=request_id)
