"""The fields that JSON bodies of several dialects share, to queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from model import WindowStrategy
from service.dialects.body import RequestBody
from service.dialects.dialect import RequestHead
from service.dialects.document_fields import DocumentInput, ReadDocuments, ignored_in, read_documents
from service.dialects.document_forms import Query
from service.dialects.faults import shortened, to_service_error
from service.errors import InvalidRequestError
from service.records import (
    MAX_PRIORITY,
    Blend,
    BlendMethod,
    DocumentDetail,
    RankOptions,
    RerankQuery,
    ScoreKind,
)
from service.time_limits import MAX_TIMEOUT_MS, OnDeadline

_MAX_NAMED_FIELDS = 10
_MAX_OPTIONS = 100
_RERANK_PATH = "/rerank"
"""Clients of this path ask for documents and break on them (LiteLLM's infinity and hosted_vllm providers)."""


class ZipRerankOptions(BaseModel):
    """The service's own options. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid")

    keep_ratio: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="share of each page's visual tokens that is kept"
    )
    min_keep_ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="the lowest keep_ratio that is used where the time is short; at most keep_ratio",
    )
    window_size: int | None = Field(None, ge=1, le=20, description="pages in one forward pass")
    stride: int | None = Field(None, ge=1, le=20, description="pages by which the window moves; at most window_size")
    window_strategy: WindowStrategy | None = Field(
        None,
        description="over more pages than a window: sliding (published), or tournament (fewer windows, side by side)",
    )
    score: Literal["softmax", "relative", "logit", "rank"] | None = Field(
        None,
        description="softmax: sums to 1 over all pages; relative: the best page has 1.0; logit: of the page's letter; "
        "rank: by place alone. Absent: relative for strings, softmax for objects",
    )
    results: Literal["pages", "documents"] | None = Field(
        None,
        description="one result for each page, or for each document (its best page). Absent: for each page of documents "
        "sent as objects, for each document sent as a string",
    )
    timeout_ms: int | None = Field(
        None,
        ge=1,
        le=MAX_TIMEOUT_MS,
        description="milliseconds from the arrival of the request until the answer; the smaller of this and "
        "X-Request-Timeout-Ms holds",
    )
    on_deadline: OnDeadline = Field(
        "degrade",
        description="where the time is too short: degrade ranks less (see meta.degraded and X-ZipRerank-Degraded); fail "
        "answers with 429",
    )
    on_document_error: Literal["fail", "skip"] = Field(
        "fail",
        description="an unusable document or page: fail: the request fails; skip: the rest is ranked, `errors` and the header "
        "`X-ZipRerank-Skipped` name it, and where each document has one result it comes last with the lowest score",
    )
    blend: float = Field(
        0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="weight of the first stage in the order; 0: the model alone ranks",
    )
    blend_by: BlendMethod = Field(
        "rank",
        description="rank: reciprocal rank fusion of the model's places with those by first_stage_score, or by the order of "
        "the documents where not all have one; score: weighted sum of normalised first_stage_scores and the model's scores",
    )
    include_timings: bool = Field(False, description="add stage times and token counts to the answer")
    include_kept_tokens: bool = Field(
        False, description="add to each result the visual tokens of its page that were kept, as a mask"
    )

    @model_validator(mode="before")
    @classmethod
    def _has_few_names(cls, value: Any) -> Any:
        """Counted first: 100,000 unknown names must not cost 100,000 faults."""
        if not isinstance(value, dict | cls):
            raise ValueError("send an object")
        if isinstance(value, dict) and len(value) > _MAX_OPTIONS:
            raise ValueError(
                f"{len(value)} options were sent, and there are {len(cls.model_fields)}. Leave out the others"
            )
        return value


def _query_text(value: Any) -> Any:
    """The text of a query that is an object with `text`, `content` parts or Elastic's `value`, or a list of parts."""
    if isinstance(value, dict):
        if value.get("type") == "text" and "value" in value:
            return value["value"]
        value = value.get("content", value.get("text", value))
    if isinstance(value, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
            raise ValueError("a query has text parts only; images in it are not supported")
        return " ".join(part["text"] for part in value)
    return value


QueryText = Annotated[str, BeforeValidator(_query_text, json_schema_input_type=Query)]


class QueryFields(BaseModel):
    """The fields of every dialect."""

    model_config = ConfigDict(extra="allow")

    query: QueryText
    model: str | None = Field(None, description="accepted and ignored: the loaded model answers")
    ziprerank: ZipRerankOptions = Field(default_factory=ZipRerankOptions, description="the service's own options")

    @property
    def max_results(self) -> int | None:
        """Results in the answer; None: all."""
        return None

    @property
    def queue_priority(self) -> int:
        """As it was sent; 0 where it was not."""
        return 0

    @property
    def wants_logits(self) -> bool:
        return False

    @property
    def wants_documents(self) -> bool:
        return False

    def ignored_fields(self) -> Iterator[str]:
        """Names of fields that have no meaning here."""
        yield from (shortened(name) for name in self.model_extra or ())


class RerankFields(QueryFields):
    """The fields of the rerank APIs of Cohere, Jina, vLLM, infinity and Voyage, less the documents."""

    top_n: int | None = Field(None, ge=0, description="results to return; 0, null or more than there are: all")
    top_k: int | None = Field(None, ge=0, description="the same by another name")
    limit: int | None = Field(None, ge=0, description="the same by another name")
    raw_scores: bool | None = Field(None, description="letter logits instead of scores in [0, 1]; one window only")
    use_activation: bool | None = Field(None, description="false: the same as raw_scores")
    return_documents: bool | None = Field(None, description="add a `document` without binary content to every result")
    return_text: bool | None = Field(None, description="the same by another name")
    priority: int | None = Field(
        None,
        description="place among the caller's own requests: 0 (soonest) to 999, but not sooner than the API key allows; above "
        "that the request yields to other callers too",
    )

    @property
    def max_results(self) -> int | None:
        given = (self.top_n, self.top_k, self.limit)
        return next((value for value in given if value is not None), None) or None

    @property
    def queue_priority(self) -> int:
        return self.priority or 0

    @property
    def wants_logits(self) -> bool:
        return bool(self.raw_scores) or self.use_activation is False

    @property
    def wants_documents(self) -> bool:
        return bool(self.return_documents or self.return_text)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDefaults:
    """The form of a dialect's answers, where the request does not choose."""

    score: ScoreKind = "relative"
    score_of_strings: ScoreKind = "relative"  # where all documents are strings
    yields_one: bool | None = True  # one result for each document; None: by the form in which it was sent


ONE_SCORE_A_DOCUMENT = AnswerDefaults()

Fields = TypeVar("Fields", bound=BaseModel)


def validate(schema: type[Fields], body: RequestBody, head: RequestHead) -> Fields:
    """The body by its schema. Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
    try:
        return schema.model_validate(body.fields, context={"max_documents": head.max_documents})
    except ValidationError as error:
        raise to_service_error(error) from error


def read_query(
    request: QueryFields,
    inputs: Sequence[DocumentInput],
    head: RequestHead,
    *,
    defaults: AnswerDefaults = ONE_SCORE_A_DOCUMENT,
    field: str = "documents",
) -> RerankQuery:
    """The query of a parsed body. inputs: its documents, in the field of that name.

    Raises: InvalidRequestError, TooLargeError.
    """
    chosen = request.ziprerank.results
    documents = read_documents(
        inputs, head, field=field, yields_one=defaults.yields_one if chosen is None else chosen == "documents"
    )
    ignored = ignored_warning([*request.ignored_fields(), *ignored_in(inputs, field=field)])
    return query_of(request, replace(documents, notes=(*ignored, *documents.notes)), head, defaults=defaults)


def query_of(
    request: QueryFields, documents: ReadDocuments, head: RequestHead, *, defaults: AnswerDefaults
) -> RerankQuery:
    """The query of parsed fields and documents."""
    own = request.ziprerank
    by_dialect = defaults.score_of_strings if documents.are_strings else defaults.score
    score: ScoreKind = own.score or ("logit" if request.wants_logits else head.default_score or by_dialect)
    blend, notes = _blend_of(own, documents)
    if blend is not None:
        if own.score is not None or request.wants_logits:
            notes = (*notes, "scores are blended: ziprerank.score and raw_scores have no effect beside ziprerank.blend")
        score = "log_odds" if by_dialect == "log_odds" else "blend"
    detail: DocumentDetail = "none"
    if request.wants_documents:
        detail = "hash" if head.path == _RERANK_PATH else "text"
    return RerankQuery(
        text=request.query,
        documents=documents.documents,
        options=RankOptions(
            keep_ratio=own.keep_ratio,
            min_keep_ratio=own.min_keep_ratio,
            window_size=own.window_size,
            stride=own.stride,
            window_strategy=own.window_strategy,
        ),
        max_results=request.max_results,
        priority=min(max(request.queue_priority, 0), MAX_PRIORITY),
        score=score,
        document_detail=detail,
        timeout_ms=own.timeout_ms,
        on_deadline=own.on_deadline,
        skips_unusable=own.on_document_error == "skip",
        blend=blend,
        wants_timings=own.include_timings,
        wants_kept_tokens=own.include_kept_tokens,
        documents_field=documents.field,
        metadata=documents.metadata,
        warnings=(*documents.notes, *notes),
    )


def _blend_of(own: ZipRerankOptions, documents: ReadDocuments) -> tuple[Blend | None, tuple[str, ...]]:
    """The blend that the request asks for, and notes about it.

    Raises: InvalidRequestError, where a document lacks a score that is needed.
    """
    if not own.blend:
        return None, ()
    scores = documents.first_stage_scores
    lacking = next((index for index in range(len(documents.documents)) if index not in scores), None)
    if lacking is None:
        return Blend(weight=own.blend, by=own.blend_by, first_stage_scores=scores), ()
    name = f"{documents.field}[{lacking}].first_stage_score"
    if own.blend_by == "score":
        message = (
            f"{name}: it is missing, and ziprerank.blend_by score needs one for every document. Send each document as an "
            "object with a first_stage_score, or blend by rank."
        )
        raise InvalidRequestError("invalid_request", message, param=name, document_index=lacking)
    missing = f"{name} is missing: the first stage's places are those of the list"
    return Blend(weight=own.blend), (missing,) if scores else ()


def one_result_each(query: RerankQuery) -> RerankQuery:
    """For clients that assign the scores by place, so that each document needs exactly one, whatever the request chose."""
    return replace(query, documents=tuple(replace(document, yields_one=True) for document in query.documents))


def ignored_warning(ignored: Sequence[str]) -> tuple[str, ...]:
    """One warning for all fields that have no meaning."""
    if not ignored:
        return ()
    more = f" and {len(ignored) - _MAX_NAMED_FIELDS} more" if len(ignored) > _MAX_NAMED_FIELDS else ""
    return (f"ignored fields: {', '.join(ignored[:_MAX_NAMED_FIELDS])}{more}",)
