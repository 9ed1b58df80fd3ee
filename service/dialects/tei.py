"""Hugging Face's text-embeddings-inference: `texts` in, a bare list of indexes and scores out. llama.cpp takes it too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.document_fields import DocumentList
from service.dialects.error_bodies import message_and_param
from service.dialects.examples import PNG_URI, QUERY
from service.dialects.paths import shared_routes
from service.dialects.request_fields import RerankFields, read_query, validate
from service.dialects.results import results_of, shown_text
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery


class TeiRequest(RerankFields):
    """`texts` may be texts, data URIs, base64 or `ziprerank://ID#page=N`."""

    texts: DocumentList
    truncate: bool | str | None = Field(None, description="accepted and ignored: nothing is cut")
    truncation_direction: str | None = Field(None, description="accepted and ignored: nothing is cut")


class TeiResult(TypedDict):
    index: int
    score: float
    text: NotRequired[str]


class TeiError(TypedDict):
    error: str
    error_type: str
    code: str
    request_id: str


@dataclass(frozen=True, slots=True)
class TeiDialect:
    """Reads and writes the format."""

    name: str = "tei"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = shared_routes(
        description="Rank texts as text-embeddings-inference does.",
        request=TeiRequest,
        answer=list[TeiResult],
        error=TeiError,
        examples={
            "tei": {
                "query": QUERY,
                "texts": ["Revenue rose by 4 %.", PNG_URI],
                "truncate": True,
                "truncation_direction": "Right",
                "return_text": True,
            }
        },
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return "texts" in fields and "documents" not in fields

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        request = validate(TeiRequest, body, head)
        return read_query(request, request.texts, head, field="texts")

    def write(self, query: RerankQuery, answer: RerankAnswer) -> list[TeiResult]:
        lines: list[TeiResult] = []
        for result in results_of(query, answer).items:
            line = TeiResult(index=result.page.document_index, score=result.score)
            if query.document_detail != "none":
                line["text"] = shown_text(query, result.page)
            lines.append(line)
        return lines

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> TeiError:
        message, _ = message_and_param(error, query)
        return TeiError(error=message, error_type=_error_type(error.status), code=error.code, request_id=request_id)


def _error_type(status: int) -> str:
    """Of TEI's closed list."""
    named = {429: "overloaded", 503: "unhealthy"}
    return named.get(status, "validation" if status < 500 else "backend")
