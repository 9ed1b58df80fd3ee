"""The service's own format: the fields that Cohere's, Jina's, vLLM's and infinity's clients send and read, and `ziprerank`."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.dialects.dialect import DialectRoute, RequestHead
from service.dialects.results import results_of
from service.dialects.ziprerank_form import FORM, read_form
from service.dialects.ziprerank_request import DocumentRerankRequest, RerankRequest, read_json
from service.errors import ServiceError
from service.records import RankedPage, RerankAnswer, RerankQuery

_JSON, _MULTIPART = "application/json", "multipart/form-data"
_RAW_SCORES_WARNING = "raw_scores has no effect: logits of several windows do not compare; scores fall evenly with rank"


class ResultDocument(TypedDict):
    """Says which page a result is. Never its content."""

    text: str
    id: str
    page: int | None
    sha256: Annotated[str, Field(description="SHA-256 of the document's bytes")]


class Result(TypedDict):
    index: Annotated[int, Field(description="position in `documents`; the pages of one PDF share it")]
    id: Annotated[str, Field(description="the document's id; for PDF and TIFF with `#page=N`")]
    page: Annotated[int | None, Field(description="1-based page number; null for a single image")]
    relevance_score: float
    degraded: NotRequired[Annotated[bool, Field(description="true where parts of the page could not be drawn")]]
    document: NotRequired[ResultDocument]


class Usage(TypedDict):
    prompt_tokens: Annotated[int, Field(description="language-model tokens after pruning, summed over windows")]
    total_tokens: int


class ApiVersion(TypedDict):
    version: str


class BilledUnits(TypedDict):
    search_units: int
    total_tokens: int


class Tokens(TypedDict):
    input_tokens: int
    output_tokens: int


class Meta(TypedDict):
    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens
    score: Annotated[Literal["softmax", "logit", "rank"], Field(description="the kind of relevance_score")]
    windows: Annotated[int, Field(description="forward passes that the pages took")]
    warnings: list[str]


class VisualTokens(TypedDict):
    before: Annotated[int, Field(description="before pruning, summed over windows")]
    after: int


class CacheUse(TypedDict):
    hits: Annotated[int, Field(description="pages whose features were in the cache, summed over windows")]
    misses: int


class Measurements(TypedDict):
    timings_ms: Annotated[dict[str, float], Field(description="by stage, and `total`")]
    visual_tokens: VisualTokens
    cache: CacheUse


class RerankResponse(TypedDict):
    """Scores compare within one answer only: the model ranks the pages of a prompt against each other."""

    id: str
    object: Literal["rerank"]
    created: Annotated[int, Field(description="seconds since 1970")]
    model: str
    results: list[Result]
    usage: Usage
    meta: Meta
    ziprerank: NotRequired[Annotated[Measurements, Field(description="present when `include_timings` was sent")]]


class Fault(TypedDict):
    loc: list[str | int]
    msg: str
    type: str


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """The one body of every error, readable by clients of Cohere, OpenAI, Jina and problem+json styles."""

    id: str
    message: str
    detail: Annotated[str | list[Fault], Field(description="a list for status 422 alone")]
    error: ErrorDetail
    type: str
    title: str
    status: int
    code: str
    document_index: int | None
    page: int | None
    request_id: str


@dataclass(frozen=True, slots=True)
class ZipRerankDialect:
    """Reads and writes the format."""

    name: str = "ziprerank"
    media_types: Sequence[str] = (_JSON, _MULTIPART)
    routes: Sequence[DialectRoute] = (
        DialectRoute(
            path="/rerank",
            prefixes=("", "/v1", "/v2"),
            name="rerank",
            description="Rank the pages of PDFs and images by relevance to a query, best first.",
            request=RerankRequest,
            form={**FORM, "required": ["query", "file"]},
            answer=RerankResponse,
            error=ErrorBody,
        ),
        DialectRoute(
            path="/documents/{id}/rerank",
            prefixes=("", "/v1"),
            name="rerank_document",
            description="Rank the pages of one registered document; or, where the body has documents, those. Either way a "
            "load balancer sees in the path whose pages they are, and can send all such requests to the replica that has "
            "them in its caches.",
            request=DocumentRerankRequest,
            form={**FORM, "required": ["query"]},
            answer=RerankResponse,
            error=ErrorBody,
        ),
    )

    def read(self, body: Sequence[bytes], head: RequestHead) -> RerankQuery:
        """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
        media_type = head.content_type.partition(";")[0].strip().lower()
        return read_form(body, head) if media_type == _MULTIPART else read_json(b"".join(body), head)

    def write(self, query: RerankQuery, answer: RerankAnswer) -> RerankResponse:
        """The best pages, with the kind of score that was asked for where the answer has it."""
        shown = results_of(query, answer)
        has_logits = answer.score_kind == "softmax"
        shows_logits = query.wants_logits and has_logits
        tokens = answer.tokens.prompt_tokens
        warning = [_RAW_SCORES_WARNING] if query.wants_logits and not has_logits else []
        body = RerankResponse(
            id=answer.request_id,
            object="rerank",
            created=answer.created,
            model=answer.model,
            results=[_result(page, query, shows_logits=shows_logits) for page in shown],
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
            meta=Meta(
                api_version=ApiVersion(version="2"),
                billed_units=BilledUnits(search_units=1, total_tokens=tokens),
                tokens=Tokens(input_tokens=tokens, output_tokens=0),
                score="logit" if shows_logits else answer.score_kind,
                windows=answer.windows,
                warnings=[*query.warnings, *warning],
            ),
        )
        if query.wants_timings:
            body["ziprerank"] = _measurements(answer)
        return body

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> ErrorBody:
        """The message, with the place in front of it as the client named it."""
        place, param = _place(error, query)
        return error_body(
            error.status,
            error.code,
            f"{place}: {error.message}" if place else error.message,
            request_id=request_id,
            param=param,
            document_index=error.document_index,
            page=error.page,
        )


def error_body(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    param: str | None = None,
    document_index: int | None = None,
    page: int | None = None,
) -> ErrorBody:
    """The members of problem+json, Cohere's `message`, OpenAI's `error`, and `detail`, which is a list for 422 alone."""
    location: list[str | int] = ["body"] if document_index is None else ["body", "documents", document_index]
    return ErrorBody(
        id=request_id,
        message=message,
        detail=[Fault(loc=location, msg=message, type=code)] if status == 422 else message,
        error=ErrorDetail(message=message, type=_error_type(status), param=param, code=code),
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        document_index=document_index,
        page=page,
        request_id=request_id,
    )


def _result(page: RankedPage, query: RerankQuery, *, shows_logits: bool) -> Result:
    result = Result(
        index=page.document_index,
        id=page.label,
        page=page.number,
        relevance_score=page.logit if shows_logits and page.logit is not None else page.score,
    )
    if page.is_degraded:
        result["degraded"] = True
    if query.wants_documents:
        result["document"] = ResultDocument(text="", id=page.label, page=page.number, sha256=page.document_sha256)
    return result


def _measurements(answer: RerankAnswer) -> Measurements:
    tokens = answer.tokens
    milliseconds = {stage: round(seconds * 1000, 3) for stage, seconds in answer.stage_seconds.items()}
    return Measurements(
        timings_ms={**milliseconds, "total": round(answer.total_seconds * 1000, 3)},
        visual_tokens=VisualTokens(before=tokens.visual_tokens, after=tokens.kept_tokens),
        cache=CacheUse(hits=tokens.cached_pages, misses=tokens.window_pages - tokens.cached_pages),
    )


def _place(error: ServiceError, query: RerankQuery | None) -> tuple[str, str | None]:
    """The place of an error as this format names it: for the sentence (empty: no place), and for `param`."""
    if error.param is not None:  # set by the code that reads this format, whose message has the place
        return "", error.param
    if error.status >= 500:  # a fault of the service, whose message says all
        return "", None
    if error.document_index is None:
        name = {"options": "ziprerank"}.get(error.field or "", error.field)
        return ("", name) if name == "id" else (name or "", name)
    document = f"documents[{error.document_index}]"
    match error.field:
        case "content" if query is not None and error.page is None:
            name = query.documents[error.document_index].name
            return name, name
        case "id":  # the message quotes it
            return "", "id"
        case "pages" if query is not None and query.documents[error.document_index].name == "id":  # the path's document
            return "pages", "pages"
        case "pages":
            return f"{document}.pages", "pages"
        case _:
            return document if error.page is None else f"{document}, page {error.page}", None


def _error_type(status: int) -> str:
    named = {401: "authentication_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")
