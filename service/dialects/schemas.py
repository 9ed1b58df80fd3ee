"""The public API's shapes, and the one place where a client's JSON becomes typed.

Field names are those of the other rerank APIs, so that clients need no change. Unknown fields are ignored and named in
`meta.warnings`, except in our own group `ziprerank`, where a typing error must not pass unseen.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from model import WindowStrategy
from service.errors import InvalidRequestError, MalformedBodyError, TooLargeError

_FAULTS_AT_MOST = 10
_NAMES_AT_MOST = 10
_NAME_LENGTH = 64
_LABEL_LENGTH = 512


class DocumentInput(BaseModel):
    """One document: an image, the pages of a PDF, or (id alone) a registered document or some of its pages."""

    model_config = ConfigDict(extra="allow")

    image: str | None = Field(None, description="PNG, JPEG, WebP, TIFF, GIF or BMP as data URI or base64")
    pdf: str | None = Field(None, description="PDF as data URI or base64")
    pages: str | None = Field(
        None, description="1-based page numbers of a PDF or TIFF, such as `1-3,7` or `5-`; absent: all"
    )
    id: str | None = Field(
        None,
        max_length=_LABEL_LENGTH,
        description="with an image or pdf: label in the answer, default `document-<index>`; alone: a registered document "
        "such as `annual-report`, or one page of it such as `annual-report#page=3`",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError('send an object such as {"pdf": "<base64>", "pages": "1-3"} or {"image": "<base64>"}')
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.image is not None and self.pdf is not None:
            raise ValueError("give exactly one of image and pdf")
        if self.is_reference and not self.id:
            raise ValueError("give exactly one of image and pdf, or the id of a registered document")
        return self

    @property
    def is_reference(self) -> bool:
        """Whether it names a registered document instead of carrying one."""
        return self.image is None and self.pdf is None


class ZipRerankOptions(BaseModel):
    """The service's own options. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid")

    keep_ratio: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="share of each page's visual tokens that is kept"
    )
    window_size: int | None = Field(None, ge=1, le=20, description="pages in one forward pass")
    stride: int | None = Field(None, ge=1, le=20, description="pages by which the window moves; at most window_size")
    window_strategy: WindowStrategy | None = Field(
        None,
        description="over more pages than a window: sliding (published), or tournament (fewer windows, side by side)",
    )
    include_timings: bool = Field(False, description="add stage times and token counts to the answer")


def _bounded_documents(value: Any, info: ValidationInfo) -> Any:
    """Count before looking at the items: a list of 200,000 wrong ones must not cost 200,000 complaints."""
    limit = (info.context or {}).get("max_files")
    if isinstance(value, list) and limit is not None:
        check_document_count(len(value), limit)
    return value


def check_document_count(count: int, limit: int) -> None:
    """Raises TooLargeError above the limit."""
    if count > limit:
        raise TooLargeError(
            "too_many_files", f"documents: {count} were sent and the limit is {limit}. Send fewer.", param="documents"
        )


class RerankInput(BaseModel):
    """The fields that JSON and multipart requests share."""

    model_config = ConfigDict(extra="allow")

    query: str = Field(description="what the pages are ranked by; nothing is stripped or cut")
    model: str | None = Field(None, description="accepted and ignored: the loaded model answers")
    top_n: int | None = Field(None, ge=0, description="results to return; 0, null or more than there are: all")
    raw_scores: bool | None = Field(None, description="letter logits instead of scores in [0, 1]; one window only")
    return_documents: bool | None = Field(None, description="add a `document` without content to every result")
    ziprerank: ZipRerankOptions = Field(ZipRerankOptions(), description="the service's own options")

    def ignored_fields(self) -> Iterator[str]:
        """Names of fields that have no meaning here."""
        yield from (_shortened(name) for name in self.model_extra or ())


Documents = Annotated[list[DocumentInput], BeforeValidator(_bounded_documents), Field(min_length=1)]


class RerankRequest(RerankInput):
    """Body of `POST /rerank` as JSON."""

    documents: Documents = Field(description="documents whose pages are ranked together")

    def ignored_fields(self) -> Iterator[str]:
        yield from RerankInput.ignored_fields(self)
        yield from _ignored_in(self.documents)


class DocumentRerankRequest(RerankInput):
    """Body of `POST /documents/{id}/rerank` as JSON."""

    documents: Documents | None = Field(
        None,
        description="absent: the registered document of the path is ranked. Given: these are ranked, as by `POST /rerank`, "
        "and the path's id (of a document or a collection, registered or not) only tells a load balancer where to send them",
    )
    pages: str | None = Field(
        None, description="without documents: 1-based page numbers of the registered document; absent: all"
    )

    @model_validator(mode="after")
    def _pages_of_one_document(self) -> Self:
        if self.documents is not None and self.pages is not None:
            raise ValueError(
                "pages belongs to the document of the path; give each of documents a pages field of its own"
            )
        return self

    def ignored_fields(self) -> Iterator[str]:
        yield from RerankInput.ignored_fields(self)
        yield from _ignored_in(self.documents or ())


def _ignored_in(documents: Sequence[DocumentInput]) -> Iterator[str]:
    for index, document in enumerate(documents):
        yield from (f"documents[{index}].{_shortened(name)}" for name in document.model_extra or ())


class ResultDocument(BaseModel):
    """Says which page a result is. Never its content."""

    text: str = ""
    id: str
    page: int | None
    sha256: str = Field(description="SHA-256 of the document's bytes")


class Result(BaseModel):
    index: int = Field(description="position in `documents`; the pages of one PDF share it")
    id: str = Field(description="the document's id; for PDF and TIFF with `#page=N`")
    page: int | None = Field(description="1-based page number; null for a single image")
    relevance_score: float
    degraded: bool | None = Field(None, description="present and true where parts of the page could not be drawn")
    document: ResultDocument | None = None


class Usage(BaseModel):
    prompt_tokens: int = Field(description="language-model tokens after pruning, summed over windows")
    total_tokens: int


class RerankResponse(BaseModel):
    """Scores compare within one answer only: the model ranks the pages of a prompt against each other."""

    id: str
    object: str = "rerank"
    created: int
    model: str
    results: list[Result]
    usage: Usage
    meta: dict[str, Any] = Field(description="api_version, billed_units, tokens, warnings, score, windows")
    ziprerank: dict[str, Any] | None = Field(None, description="timings_ms, visual_tokens and cache, when asked for")


class DocumentPage(BaseModel):
    id: str = Field(description="names the page in a rerank request and its answer")
    page: int | None = Field(description="1-based page number; null for a single image")


class DocumentFailure(BaseModel):
    """Why not all pages of a registered document could be processed. The others can be ranked all the same."""

    code: str
    message: str
    page: int | None


class RegisteredDocument(BaseModel):
    """A registered document. It can be ranked in every state; when ready, its pages need no more work."""

    id: str
    state: Literal["processing", "ready", "failed"]
    page_count: int
    bytes: int
    sha256: str
    created: int = Field(description="when these bytes were put, in seconds since 1970")
    error: DocumentFailure | None = Field(None, description="present in state failed")


class RegisteredDocumentPages(RegisteredDocument):
    """Body of the answer to `PUT` and `GET /documents/{id}`."""

    pages: list[DocumentPage]


class RegisteredDocuments(BaseModel):
    """Body of the answer to `GET /documents`."""

    object: str = "list"
    data: list[RegisteredDocument] = Field(description="sorted by id")
    next: str | None = Field(description="send it as `after` for the documents that follow; null: there are none")


class DocumentsQuery(BaseModel):
    """The query string of `GET /documents`."""

    limit: int = Field(100, ge=1, le=1000, description="documents in one answer")
    after: str = Field("", max_length=128, description="the `next` of the answer before")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The one body of every error, readable by clients of Cohere, OpenAI, Jina and problem+json styles."""

    id: str
    message: str
    detail: str | list[dict[str, Any]]
    error: ErrorDetail
    type: str
    title: str
    status: int
    code: str
    document_index: int | None
    page: int | None
    request_id: str


def parse_json(body: bytes, *, max_files: int) -> RerankRequest:
    """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
    try:
        return RerankRequest.model_validate_json(body, context={"max_files": max_files})
    except ValidationError as error:
        raise _translated(error) from error


def parse_document_json(body: bytes, *, max_files: int) -> DocumentRerankRequest:
    """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
    try:
        return DocumentRerankRequest.model_validate_json(body, context={"max_files": max_files})
    except ValidationError as error:
        raise _translated(error) from error


def parse_fields(fields: dict[str, Any]) -> RerankInput:
    """The form fields of a multipart request. Raises: InvalidRequestError."""
    try:
        return RerankInput.model_validate(fields)
    except ValidationError as error:
        raise _translated(error) from error


def parse_documents_query(fields: Mapping[str, str]) -> DocumentsQuery:
    """Raises: InvalidRequestError."""
    try:
        return DocumentsQuery.model_validate(dict(fields))
    except ValidationError as error:
        raise _translated(error) from error


def parse_options(text: str) -> ZipRerankOptions:
    """The form field `ziprerank`, a JSON object. Raises: InvalidRequestError."""
    try:
        return ZipRerankOptions.model_validate_json(text)
    except ValidationError as error:
        raise InvalidRequestError("invalid_request", _faults(error, place="ziprerank"), param="ziprerank") from error


def _translated(error: ValidationError) -> MalformedBodyError | InvalidRequestError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBodyError("malformed_body", "The body is not valid JSON (UTF-8, one object).")
    param = str(first["loc"][0]) if first["loc"] else None
    return InvalidRequestError("invalid_request", _faults(error), param=param and _shortened(param))


def _faults(error: ValidationError, place: str = "") -> str:
    """The first few faults, by field, with the value where it is a number; never a text that was sent."""
    faults = error.errors(include_url=False, include_context=False)
    told = [_fault(place, fault) for fault in faults[:_FAULTS_AT_MOST]]
    if len(faults) > _FAULTS_AT_MOST:
        told.append(f"and {len(faults) - _FAULTS_AT_MOST} more")
    return "; ".join(told) + "."


def _fault(place: str, fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    value = fault["input"]
    is_number = isinstance(value, int | float) and abs(value) < 1e15
    return f"{_path(place, fault['loc'])}: {message}" + (f", got {value}" if is_number else "")


def _path(place: str, location: tuple[int | str, ...]) -> str:
    path = place
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{_shortened(step)}" if path else _shortened(step)
    return path or "body"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
