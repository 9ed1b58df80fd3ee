"""The answer that clients of Cohere, Jina, vLLM, infinity and Voyage read, each its own part of it."""

import base64
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.degraded_reason import DegradedReason
from service.dialects.error_bodies import message_and_param
from service.dialects.results import Result, results_of, shown_text
from service.errors import ServiceError
from service.records import RerankAnswer, RerankQuery, ScoreKind
from service.time_limits import Degradation, DegradationReason, GivenUpName


class ResultDocument(TypedDict):
    """Says which page a result is. Never binary content."""

    text: Annotated[str, Field(description="the text of a text document; of others the reference or the label")]
    id: str
    page: int | None
    sha256: Annotated[str, Field(description="SHA-256 of the document's bytes; empty where the document was skipped")]


class KeptTokenMask(TypedDict):
    """The grid of a page's visual tokens, and those of them that the language model read."""

    rows: int
    columns: int
    mask: Annotated[
        str, Field(description="base64 of rows x columns bytes, row by row: 1 for a kept token, 0 for a pruned one")
    ]


class RerankResult(TypedDict):
    index: Annotated[int, Field(description="position in `documents`; the pages of one PDF share it")]
    id: Annotated[str, Field(description="the document's id; for PDF and TIFF with `#page=N`")]
    page: Annotated[
        int | None, Field(description="1-based page number; null for a document of one page without number")
    ]
    relevance_score: float
    degraded: NotRequired[Annotated[bool, Field(description="true where parts of the page could not be drawn")]]
    degraded_reasons: NotRequired[
        Annotated[list[DegradedReason], Field(description="kinds of content that are missing; beside `degraded`")]
    ]
    document: NotRequired[ResultDocument]
    sha256: NotRequired[
        Annotated[str, Field(description="of the document's bytes; by `return_documents` on `/rerank`")]
    ]
    metadata: NotRequired[Annotated[Any, Field(description="as it was sent with the document")]]
    kept_tokens: NotRequired[
        Annotated[
            KeptTokenMask,
            Field(description="by `ziprerank.include_kept_tokens`; of the last window that ranked the page"),
        ]
    ]


class SkippedDocument(TypedDict):
    """A document, or a page of one, that was left out because it is unusable."""

    index: Annotated[int, Field(description="position in `documents`")]
    page: Annotated[int | None, Field(description="1-based page number; null: the document, or its only page")]
    code: Annotated[str, Field(description="as of the error that fails a request without `on_document_error: skip`")]
    message: str


class Usage(TypedDict):
    prompt_tokens: Annotated[int, Field(description="language-model tokens after pruning, summed over windows")]
    completion_tokens: Literal[0]
    total_tokens: int


class ApiVersion(TypedDict):
    version: str


class BilledUnits(TypedDict):
    search_units: int
    total_tokens: int


class Tokens(TypedDict):
    input_tokens: int
    output_tokens: int


GivenUpPart = TypedDict(
    "GivenUpPart",
    {
        "name": Annotated[GivenUpName, Field(description="the part of the ranking")],
        "from": Annotated[float | str, Field(description="as it was asked for")],
        "to": Annotated[float | str, Field(description="as it was done")],
    },
)
"""One part of the ranking that was given up."""


class Degraded(TypedDict):
    """Says why the ranking is less than was asked for, and in which parts."""

    reason: Annotated[
        DegradationReason,
        Field(
            description="too_little_time: less was ranked from the start; time_up: the time ended before the ranking did"
        ),
    ]
    timeout_ms: int
    given_up: list[GivenUpPart]


class Meta(TypedDict):
    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens
    score: Annotated[ScoreKind, Field(description="the kind of relevance_score")]
    windows: Annotated[int, Field(description="forward passes that the pages took")]
    warnings: list[str]
    degraded: NotRequired[Annotated[Degraded, Field(description="present where the time was too short for all of it")]]


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
    results: list[RerankResult]
    data: Annotated[list[RerankResult], Field(description="the results once more, where clients of Voyage read them")]
    errors: NotRequired[
        Annotated[
            list[SkippedDocument],
            Field(description="documents and pages that were skipped; present when `on_document_error: skip` was sent"),
        ]
    ]
    usage: Usage
    meta: Meta
    ziprerank: NotRequired[Annotated[Measurements, Field(description="present when `include_timings` was sent")]]


def write_answer(query: RerankQuery, answer: RerankAnswer) -> RerankResponse:
    """The best pages or documents, with the kind of score that was chosen where the answer has it."""
    results = results_of(query, answer)
    tokens = answer.tokens.prompt_tokens
    lines = [_line(result, query) for result in results.items]
    body = RerankResponse(
        id=answer.request_id,
        object="rerank",
        created=answer.created,
        model=answer.model,
        results=lines,
        data=lines,
        usage=usage_of(answer),
        meta=Meta(
            api_version=ApiVersion(version="2"),
            billed_units=BilledUnits(search_units=1, total_tokens=tokens),
            tokens=Tokens(input_tokens=tokens, output_tokens=0),
            score=results.kind,
            windows=answer.windows,
            warnings=[*query.warnings, *results.warnings],
        ),
    )
    if answer.degradation is not None:
        body["meta"]["degraded"] = _degraded(answer.degradation)
    if query.skips_unusable:
        body["errors"] = [_skipped(error, query) for error in answer.skipped]
    if query.wants_timings:
        body["ziprerank"] = _measurements(answer)
    return body


def _degraded(degradation: Degradation) -> Degraded:
    return Degraded(
        reason=degradation.reason,
        timeout_ms=degradation.timeout_ms,
        given_up=[{"name": part.name, "from": part.wanted, "to": part.got} for part in degradation.given_up],
    )


def usage_of(answer: RerankAnswer) -> Usage:
    tokens = answer.tokens.prompt_tokens
    return Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)


def _line(result: Result, query: RerankQuery) -> RerankResult:
    page = result.page
    line = RerankResult(index=page.document_index, id=page.label, page=page.number, relevance_score=result.score)
    if page.degraded_reasons:
        line["degraded"] = True
        line["degraded_reasons"] = list(page.degraded_reasons)
    if query.document_detail == "hash" and page.document_sha256:
        line["sha256"] = page.document_sha256
    elif query.document_detail == "text":
        line["document"] = ResultDocument(
            text=shown_text(query, page), id=page.label, page=page.number, sha256=page.document_sha256
        )
    if page.document_index in query.metadata:
        line["metadata"] = query.metadata[page.document_index]
    if page.kept is not None:
        mask = base64.b64encode(page.kept.mask).decode()
        line["kept_tokens"] = KeptTokenMask(rows=page.kept.rows, columns=page.kept.columns, mask=mask)
    return line


def _skipped(error: ServiceError, query: RerankQuery) -> SkippedDocument:
    assert error.document_index is not None, "only errors about documents are skipped"
    message, _ = message_and_param(error, query)
    return SkippedDocument(index=error.document_index, page=error.page, code=error.code, message=message)


def _measurements(answer: RerankAnswer) -> Measurements:
    tokens = answer.tokens
    milliseconds = {stage: round(seconds * 1000, 3) for stage, seconds in answer.stage_seconds.items()}
    return Measurements(
        timings_ms={**milliseconds, "total": round(answer.total_seconds * 1000, 3)},
        visual_tokens=VisualTokens(before=tokens.visual_tokens, after=tokens.kept_tokens),
        cache=CacheUse(hits=tokens.cached_pages, misses=tokens.window_pages - tokens.cached_pages),
    )
