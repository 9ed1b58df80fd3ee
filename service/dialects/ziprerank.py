"""The service's own format: the fields that Cohere's, Jina's, vLLM's and infinity's clients send and read, and `ziprerank`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.dialects.answers import RerankResponse, write_answer
from service.dialects.body import JSON, MULTIPART, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.error_bodies import ErrorBody, write_error
from service.dialects.examples import DOCUMENT_EXAMPLES, PDF_URI, QUERY
from service.dialects.paths import shared_routes
from service.dialects.ziprerank_form import FORM, read_form
from service.dialects.ziprerank_request import DocumentRerankRequest, RerankRequest, read_json
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery

_OF_DOCUMENT = DialectRoute(
    path="/documents/{id}/rerank",
    prefixes=("", "/v1"),
    name="rerank_document",
    summary="Rank the pages of a registered document",
    description="Rank the pages of one registered document; or, where the body has documents, those. Either way a load "
    "balancer sees in the path whose pages they are, and can send all such requests to the replica that has them in its "
    "caches.",
    request=DocumentRerankRequest,
    form={**FORM, "required": ["query"]},
    answer=RerankResponse,
    error=ErrorBody,
    examples={
        "path_document": {"query": QUERY},
        "path_document_pages": {"query": QUERY, "pages": "2", "return_documents": True},
        "path_and_documents": {"query": QUERY, "documents": [{"pdf": PDF_URI, "id": "report.pdf"}]},
    },
)


@dataclass(frozen=True, slots=True)
class ZipRerankDialect:
    """Reads and writes the format."""

    name: str = "ziprerank"
    media_types: Sequence[str] = (JSON, MULTIPART)
    routes: Sequence[DialectRoute] = (
        *shared_routes(
            description="Rank the pages of PDFs, images and texts by relevance to a query, best first.",
            request=RerankRequest,
            form={**FORM, "required": ["query", "file"]},
            answer=RerankResponse,
            error=ErrorBody,
            examples={
                **DOCUMENT_EXAMPLES,
                "cohere": {
                    "model": "rerank-v4.0",
                    "query": QUERY,
                    "documents": [{"title": "Results", "body": "Revenue rose by 4 %."}],
                    "rank_fields": ["title", "body"],
                    "top_n": 1,
                },
                "own_options": {
                    "query": QUERY,
                    "documents": [{"pdf": PDF_URI}],
                    "return_documents": True,
                    "ziprerank": {"score": "relative", "results": "documents", "include_timings": True},
                },
            },
        ),
        _OF_DOCUMENT,
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        """Every body may be of this format; its errors say what is missing."""
        return True

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        return read_json(body, head) if body.is_json else read_form(body, head)

    def write(self, query: RerankQuery, answer: RerankAnswer) -> RerankResponse:
        return write_answer(query, answer)

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        return write_error(error, request_id=request_id, query=query)
