"""Bodies of the service's own format as JSON, and the fields that its forms share, to queries.

Field names are those of the other rerank APIs, so that their clients need no change. Unknown fields are ignored and named in
`meta.warnings`, except in the service's own group `ziprerank`, where a typing error must not pass unseen.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.json_schema import SkipJsonSchema

from model import WindowStrategy
from service.dialects.dialect import RequestHead
from service.dialects.documents import ReadForm, read_form_of
from service.dialects.faults import shortened, to_service_error
from service.errors import InvalidRequestError, TooLargeError
from service.records import (
    DOCUMENT_ID,
    DOCUMENT_ID_RULE,
    DocumentReference,
    QueryDocument,
    RankOptions,
    RerankQuery,
    Upload,
)

MAX_LABEL_LENGTH = 512
_MAX_NAMED_FIELDS = 10
_MAX_NOTES = 10
_REFERENCE = re.compile(rf"({DOCUMENT_ID.pattern})(?:#page=([0-9]{{1,9}}))?")


class DocumentInput(BaseModel):
    """One document: an image, the pages of a PDF, or (id alone) a registered document or some of its pages.

    The forms of other APIs are taken too: strings that are a data URI, base64 or `ziprerank://ID#page=N`, content parts,
    `image_url`, and Elastic's `{type, format, value}`.
    """

    model_config = ConfigDict(extra="allow")

    form: SkipJsonSchema[ReadForm | None] = Field(None, exclude=True, repr=False)

    image: str | None = Field(None, description="PNG, JPEG, WebP, TIFF, GIF or BMP as data URI or base64")
    pdf: str | None = Field(None, description="PDF as data URI or base64")
    pages: str | None = Field(
        None, description="1-based page numbers of a PDF or TIFF, such as `1-3,7` or `5-`; absent: all"
    )
    id: str | None = Field(
        None,
        max_length=MAX_LABEL_LENGTH,
        description="with an image or pdf: label in the answer, default `document-<index>`; alone: a registered document "
        "such as `annual-report`, or one page of it such as `annual-report#page=3`",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_form(cls, value: Any) -> Any:
        form = read_form_of(value)
        return {**form.fields, "form": form}

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.image is not None and self.pdf is not None:
            raise ValueError("give exactly one of image and pdf")
        if self.is_reference and not self.id:
            raise ValueError("give exactly one of image and pdf, or the id of a registered document")
        return self

    @property
    def is_string(self) -> bool:
        """Whether it was sent as a string."""
        return self.form is not None and self.form.is_string

    def name_of(self, index: int, field: str) -> str:
        """The name of a field in messages; a string has no fields."""
        return f"documents[{index}]" if self.is_string else f"documents[{index}].{field}"

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.form is None else self.form.notes

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
    """A list, also of a single document. Counted before its items are read: 200,000 wrong ones must not cost 200,000 faults."""
    if isinstance(value, str | dict):
        value = [value]
    limit = (info.context or {}).get("max_documents")
    if isinstance(value, list) and limit is not None:
        check_document_count(len(value), limit)
    return value


def check_document_count(count: int, limit: int) -> None:
    """Raises: TooLargeError above the limit."""
    if count > limit:
        raise TooLargeError(
            "too_many_files", f"documents: {count} were sent and the limit is {limit}. Send fewer.", param="documents"
        )


def _query_text(value: Any) -> Any:
    """The text of a query that is an object with `text`, or with `content` of text parts."""
    if isinstance(value, dict) and isinstance(value.get("content"), list):
        parts = value["content"]
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            raise ValueError("a query has text parts only; images in it are not supported")
        return " ".join(part["text"] for part in parts)
    return value["text"] if isinstance(value, dict) and isinstance(value.get("text"), str) else value


class RerankFields(BaseModel):
    """The fields that JSON and multipart bodies share."""

    model_config = ConfigDict(extra="allow")

    query: Annotated[str, BeforeValidator(_query_text)] = Field(
        description="what the pages are ranked by; nothing is stripped or cut"
    )
    model: str | None = Field(None, description="accepted and ignored: the loaded model answers")
    top_n: int | None = Field(None, ge=0, description="results to return; 0, null or more than there are: all")
    raw_scores: bool | None = Field(None, description="letter logits instead of scores in [0, 1]; one window only")
    return_documents: bool | None = Field(None, description="add a `document` without content to every result")
    ziprerank: ZipRerankOptions = Field(ZipRerankOptions(), description="the service's own options")

    def ignored_fields(self) -> Iterator[str]:
        """Names of fields that have no meaning here."""
        yield from (shortened(name) for name in self.model_extra or ())


Documents = Annotated[list[DocumentInput], BeforeValidator(_bounded_documents), Field(min_length=1)]


class RerankRequest(RerankFields):
    """Body of `POST /rerank` as JSON."""

    documents: Documents = Field(description="documents whose pages are ranked together")

    def ignored_fields(self) -> Iterator[str]:
        yield from RerankFields.ignored_fields(self)
        yield from _ignored_in(self.documents)


class DocumentRerankRequest(RerankFields):
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
    def _pages_are_of_one_document(self) -> Self:
        if self.documents is not None and self.pages is not None:
            raise ValueError(
                "pages belongs to the document of the path; give each of documents a pages field of its own"
            )
        return self

    def ignored_fields(self) -> Iterator[str]:
        yield from RerankFields.ignored_fields(self)
        yield from _ignored_in(self.documents or ())


def read_json(body: bytes, head: RequestHead) -> RerankQuery:
    """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
    schema = RerankRequest if head.path_id is None else DocumentRerankRequest
    try:
        request = schema.model_validate_json(body, context={"max_documents": head.max_documents})
    except ValidationError as error:
        raise to_service_error(error) from error
    if isinstance(request, DocumentRerankRequest) and request.documents is None:
        return query_of(request, (path_reference(head.path_id, request.pages),))
    documents = request.documents or ()
    notes = [f"documents[{index}]: {note}" for index, document in enumerate(documents) for note in document.notes]
    return query_of(request, tuple(_json_document(*numbered) for numbered in enumerate(documents)), notes=notes)


def query_of(request: RerankFields, documents: tuple[QueryDocument, ...], *, notes: Sequence[str] = ()) -> RerankQuery:
    """The query of parsed fields. notes: further warnings for the answer."""
    own = request.ziprerank
    return RerankQuery(
        text=request.query,
        documents=documents,
        options=RankOptions(
            keep_ratio=own.keep_ratio,
            window_size=own.window_size,
            stride=own.stride,
            window_strategy=own.window_strategy,
        ),
        max_results=request.top_n or None,
        wants_logits=request.raw_scores or False,
        wants_documents=request.return_documents or False,
        wants_timings=own.include_timings,
        warnings=(*_warnings(list(request.ignored_fields())), *notes[:_MAX_NOTES]),
    )


def _warnings(ignored: Sequence[str]) -> tuple[str, ...]:
    """One warning for all fields that have no meaning here."""
    if not ignored:
        return ()
    more = f" and {len(ignored) - _MAX_NAMED_FIELDS} more" if len(ignored) > _MAX_NAMED_FIELDS else ""
    return (f"ignored fields: {', '.join(ignored[:_MAX_NAMED_FIELDS])}{more}",)


def _ignored_in(documents: Sequence[DocumentInput]) -> Iterator[str]:
    for index, document in enumerate(documents):
        yield from (f"documents[{index}].{shortened(name)}" for name in document.model_extra or ())


def _json_document(index: int, document: DocumentInput) -> QueryDocument:
    if document.is_reference:
        return _reference(index, document)
    kind: Literal["pdf", "image"] = "pdf" if document.pdf is not None else "image"
    return Upload(
        name=document.name_of(index, kind),
        content=document.pdf if document.pdf is not None else document.image or "",
        kind=kind,
        pages=document.pages,
        label=document.id or f"document-{index}",
        yields_one=document.is_string,
    )


def _reference(index: int, document: DocumentInput) -> DocumentReference:
    assert document.id is not None, "the schema asks for the id where there is neither image nor pdf"
    name = document.name_of(index, "id")
    found = _REFERENCE.fullmatch(document.id)
    if found is None:
        message = (
            f"{name}: without image and pdf it names a registered document (1 to 128 of the characters "
            "A-Z a-z 0-9 . _ -), or a page of it as in report#page=3."
        )
        raise InvalidRequestError("invalid_request", message, param=name, document_index=index)
    if found[2] and document.pages is not None:
        message = f"{name}: it names a page, and there is a pages field too. Send one of them."
        raise InvalidRequestError("invalid_request", message, param=name, document_index=index)
    pages = found[2] or document.pages
    return DocumentReference(name=name, id=found[1], pages=pages, yields_one=document.is_string)


def path_reference(path_id: str | None, pages: str | None) -> DocumentReference:
    """The registered document of the path. Raises: InvalidRequestError where the path cannot name one."""
    assert path_id is not None, "a body without documents is read only where the path names a document"
    if not DOCUMENT_ID.fullmatch(path_id):
        raise InvalidRequestError("invalid_request", f"id: {DOCUMENT_ID_RULE}", param="id")
    return DocumentReference(name="id", id=path_id, pages=pages)
