"""SGLang's format: `instruct` marks it; the answer is a bare list of scores, one a document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.error_bodies import ErrorBody, write_error
from service.dialects.examples import PNG_URI, QUERY
from service.dialects.paths import shared_routes
from service.dialects.request_fields import read_query, validate
from service.dialects.results import results_of, shown_text
from service.dialects.ziprerank_request import RerankRequest
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery


class SglangRequest(RerankRequest):
    instruct: str | None = Field(None, description="accepted and ignored")


class SglangMeta(TypedDict):
    id: str
    page: int | None


class SglangResult(TypedDict):
    index: int
    score: float
    document: NotRequired[str]
    meta_info: SglangMeta


@dataclass(frozen=True, slots=True)
class SglangDialect:
    """Reads and writes the format."""

    name: str = "sglang"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = shared_routes(
        description="Rank documents as SGLang does.",
        request=SglangRequest,
        answer=list[SglangResult],
        error=ErrorBody,
        examples={
            "sglang": {
                "query": QUERY,
                "documents": ["Revenue rose by 4 %.", [{"type": "image_url", "image_url": {"url": PNG_URI}}]],
                "instruct": "Find the page that answers the question.",
                "return_documents": True,
            }
        },
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return "instruct" in fields and "documents" in fields

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        request = validate(SglangRequest, body, head)
        return read_query(request, request.documents, head)

    def write(self, query: RerankQuery, answer: RerankAnswer) -> list[SglangResult]:
        lines: list[SglangResult] = []
        for result in results_of(query, answer).items:
            page = result.page
            line = SglangResult(
                index=page.document_index, score=result.score, meta_info=SglangMeta(id=page.label, page=page.number)
            )
            if query.document_detail != "none":
                line["document"] = shown_text(query, page)
            lines.append(line)
        return lines

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        return write_error(error, request_id=request_id, query=query)
