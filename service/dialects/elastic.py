"""Elasticsearch's inference format: `input` in the place of `documents`, and the results under `rerank` too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from typing_extensions import TypedDict

from service.dialects.answers import RerankResponse, write_answer
from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.document_fields import DocumentList
from service.dialects.error_bodies import ErrorBody, write_error
from service.dialects.examples import PNG_URI, QUERY
from service.dialects.paths import shared_routes
from service.dialects.request_fields import RerankFields, read_query, validate
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery


class ElasticRequest(RerankFields):
    """Each input is a string, or `{type, format, value}`."""

    input: DocumentList


class ElasticResult(TypedDict):
    index: int
    relevance_score: float
    text: NotRequired[str]


class ElasticResponse(RerankResponse):
    rerank: list[ElasticResult]


@dataclass(frozen=True, slots=True)
class ElasticDialect:
    """Reads and writes the format."""

    name: str = "elastic"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = shared_routes(
        description="Rank inputs as Elasticsearch sends them.",
        request=ElasticRequest,
        answer=ElasticResponse,
        error=ErrorBody,
        examples={
            "elastic": {
                "query": QUERY,
                "input": ["Revenue rose by 4 %.", {"type": "image", "format": "base64", "value": PNG_URI}],
            }
        },
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return isinstance(fields.get("input"), list | str) and "query" in fields and "documents" not in fields

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        request = validate(ElasticRequest, body, head)
        return read_query(request, request.input, head, field="input")

    def write(self, query: RerankQuery, answer: RerankAnswer) -> ElasticResponse:
        body = write_answer(query, answer)
        results: list[ElasticResult] = []
        for line in body["results"]:
            result = ElasticResult(index=line["index"], relevance_score=line["relevance_score"])
            if "document" in line:
                result["text"] = line["document"]["text"]
            results.append(result)
        return ElasticResponse(**body, rerank=results)

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        return write_error(error, request_id=request_id, query=query)
