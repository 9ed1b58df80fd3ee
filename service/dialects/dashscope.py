"""Alibaba's DashScope: query and documents under `input`, options under `parameters`, results under `output`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from service.dialects.answers import Usage, usage_of
from service.dialects.body import JSON, RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.document_fields import DocumentList
from service.dialects.error_bodies import ErrorBody, write_error
from service.dialects.examples import PDF_URI, PNG_URI, QUERY
from service.dialects.faults import to_service_error
from service.dialects.paths import shared_routes
from service.dialects.request_fields import QueryText, read_query
from service.dialects.results import results_of, shown_text
from service.dialects.ziprerank_request import RerankRequest
from service.errors import InvalidRequestError, ServiceError
from service.records import RerankAnswer, RerankQuery

_GROUPS = ("input", "parameters")
_EXAMPLES = {
    "dashscope": {
        "model": "qwen3-vl-rerank",
        "input": {
            "query": {"text": QUERY},
            "documents": [{"image": PNG_URI}, {"text": "Revenue rose by 4 %."}, PDF_URI],
        },
        "parameters": {"top_n": 2, "return_documents": True},
    }
}


class DashScopeInput(BaseModel):
    model_config = ConfigDict(extra="allow")

    query: QueryText
    documents: DocumentList


class DashScopeParameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    top_n: int | None = Field(None, ge=0, description="results to return; 0, null or more than there are: all")
    return_documents: bool | None = None


class DashScopeRequest(BaseModel):
    """The fields of each group are those of `POST /rerank`."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    input: DashScopeInput
    parameters: DashScopeParameters | None = None


class DashScopeDocument(TypedDict):
    text: str


class DashScopeResult(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[DashScopeDocument]


class DashScopeOutput(TypedDict):
    results: list[DashScopeResult]


class DashScopeResponse(TypedDict):
    output: DashScopeOutput
    usage: Usage
    request_id: str


@dataclass(frozen=True, slots=True)
class DashScopeDialect:
    """Reads and writes the format."""

    name: str = "dashscope"
    media_types: Sequence[str] = (JSON,)
    routes: Sequence[DialectRoute] = (
        DialectRoute(
            path="/services/rerank/text-rerank/text-rerank",
            prefixes=("", "/api/v1"),
            name="rerank_dashscope",
            summary="Rank documents (DashScope)",
            description="Rank documents as DashScope does.",
            request=DashScopeRequest,
            answer=DashScopeResponse,
            error=ErrorBody,
            examples=_EXAMPLES,
        ),
        *shared_routes(
            description="Rank documents as DashScope does.",
            request=DashScopeRequest,
            answer=DashScopeResponse,
            error=ErrorBody,
            examples=_EXAMPLES,
        ),
    )

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return isinstance(fields.get("input"), dict) and "documents" not in fields

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        fields = body.fields
        flat = {name: value for name, value in fields.items() if name not in _GROUPS}
        for name in _GROUPS:
            group = fields.get(name) or {}
            if not isinstance(group, dict):
                raise InvalidRequestError("invalid_request", f"{name}: send a JSON object.", param=name)
            flat |= group
        try:
            request = RerankRequest.model_validate(flat, context={"max_documents": head.max_documents})
        except ValidationError as error:
            raise to_service_error(error) from error
        return read_query(request, request.documents, head)

    def write(self, query: RerankQuery, answer: RerankAnswer) -> DashScopeResponse:
        lines: list[DashScopeResult] = []
        for result in results_of(query, answer).items:
            line = DashScopeResult(index=result.page.document_index, relevance_score=result.score)
            if query.document_detail != "none":
                line["document"] = DashScopeDocument(text=shown_text(query, result.page))
            lines.append(line)
        return DashScopeResponse(
            output=DashScopeOutput(results=lines), usage=usage_of(answer), request_id=answer.request_id
        )

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        return write_error(error, request_id=request_id, query=query)
