"""Lists of documents in JSON bodies, to records. Every dialect reads its list with these types, whatever its name there."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Self
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypeAliasType

from service.dialects.dialect import RequestHead
from service.dialects.document_forms import (
    ContentDocument,
    ContentPart,
    ElasticDocument,
    FilePart,
    FreeDocument,
    ImageUrlPart,
    String,
)
from service.dialects.documents import Media, ReadForm, read_form_of
from service.dialects.faults import shortened
from service.errors import InvalidRequestError, TooLargeError
from service.records import DOCUMENT_ID, DocumentReference, QueryDocument, TextDocument, Upload, UrlDocument

MAX_LABEL_LENGTH = 512
MAX_METADATA_BYTES = 64 * 1024
"""Of one document, as JSON. It is in each result twice: a hundred pages would return it two hundred times."""

_MAX_NOTES = 10
_REFERENCE = re.compile(rf"({DOCUMENT_ID.pattern})(?:#page=([0-9]{{1,9}}))?")
_SOURCES = ("image", "pdf", "text", "url")
_ONE_SOURCE = "give exactly one of image, pdf, text and url, or the id of a registered document"


class DocumentInput(BaseModel):
    """One document: a text, an image, the pages of a PDF, a URL, or (id alone) a registered document or a page of it."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"anyOf": [{"required": [name]} for name in (*_SOURCES, "id")]}
    )

    form: SkipJsonSchema[ReadForm | None] = Field(None, exclude=True, repr=False)

    text: str | None = Field(None, description="drawn as a page")
    image: str | None = Field(None, description="PNG, JPEG, WebP, TIFF, GIF or BMP as data URI or base64")
    pdf: str | None = Field(None, description="PDF as data URI or base64")
    url: str | None = Field(
        None, description="address of an image or PDF, fetched where the service is configured to fetch"
    )
    pages: str | None = Field(
        None, description="1-based page numbers of a PDF or TIFF, such as `1-3,7` or `5-`; absent: all"
    )
    id: str | None = Field(
        None,
        max_length=MAX_LABEL_LENGTH,
        description="with a source: label in the answer, default `document-<index>`; alone: a registered document "
        "such as `annual-report`, or one page of it such as `annual-report#page=3`",
    )
    first_stage_score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="of the search that found the document, higher is better; for `ziprerank.blend`",
    )
    metadata: Any = Field(None, description="at most 64 KiB; returned with each result of the document")

    @model_validator(mode="before")
    @classmethod
    def _read_form(cls, value: Any) -> Any:
        form = read_form_of(value)
        return {**form.fields, "form": form}

    @field_validator("metadata")
    @classmethod
    def _can_be_returned(cls, value: Any) -> Any:
        try:
            size = len(orjson.dumps(value))
        except orjson.JSONEncodeError:
            raise ValueError(
                "it has an integer beyond 64 bits, which cannot be returned. Send that as a string"
            ) from None
        if size > MAX_METADATA_BYTES:
            raise ValueError(
                f"it has {size} bytes as JSON and the limit is {MAX_METADATA_BYTES}, because every page of the document is "
                "returned with it. Send a key, and look the rest up"
            )
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        sources = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(sources) > 1 or not (sources or self.id):
            raise ValueError(_ONE_SOURCE)
        return self

    @property
    def is_string(self) -> bool:
        """Whether it was sent as a string."""
        return self.form is not None and self.form.is_string

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.form is None else self.form.notes


def _bounded_list(value: Any, info: ValidationInfo) -> Any:
    """A list, also of a single document. Counted before its items are read: 200,000 wrong ones must not cost 200,000 faults."""
    if isinstance(value, dict) and isinstance(value.get("content"), list):
        value = value["content"]  # content in the place of the list has a document in each part
    if isinstance(value, str | dict):
        value = [value]
    limit = (info.context or {}).get("max_documents")
    if isinstance(value, list) and limit is not None:
        check_document_count(len(value), limit, field=str(info.field_name))
    return value


Document = TypeAliasType(
    "Document",
    String
    | DocumentInput
    | ContentDocument
    | ImageUrlPart
    | FilePart
    | ElasticDocument
    | Annotated[list[ContentPart], Field(min_length=1)],
)
"""The forms of one document, for the API description."""

Documents = TypeAliasType("Documents", Annotated[list[Document], Field(min_length=1)] | Document)

FreeDocuments = TypeAliasType(
    "FreeDocuments", Documents | Annotated[list[Document | FreeDocument], Field(min_length=1)]
)

DocumentList = Annotated[
    list[DocumentInput],
    Field(min_length=1),
    BeforeValidator(_bounded_list, json_schema_input_type=Documents),
]
"""One or several documents."""

FreeDocumentList = Annotated[
    list[DocumentInput],
    Field(min_length=1),
    BeforeValidator(_bounded_list, json_schema_input_type=FreeDocuments),
]
"""The same, described for bodies with `rank_fields`."""


def check_document_count(count: int, limit: int, *, field: str = "documents") -> None:
    """Raises: TooLargeError above the limit."""
    if count > limit:
        message = f"{field}: {count} were sent and the limit is {limit}. Send fewer."
        raise TooLargeError("too_many_files", message, param=field)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadDocuments:
    """The documents of a body."""

    field: str  # the list's name
    documents: tuple[QueryDocument, ...]
    notes: tuple[str, ...] = ()  # for the answer's warnings
    metadata: dict[int, Any]  # by document
    are_strings: bool  # all of them
    first_stage_scores: Mapping[int, float]  # by document; of those that have one


def read_documents(
    inputs: Sequence[DocumentInput], head: RequestHead, *, field: str = "documents", yields_one: bool | None = None
) -> ReadDocuments:
    """The records of a list. field: its name in the client's format.

    yields_one: whether each document has one result in the answer; None: strings and texts have one, others one a page.
    Raises: InvalidRequestError, TooLargeError.
    """
    documents: list[QueryDocument] = []
    notes: list[str] = []
    for index, given in enumerate(inputs):
        own = (given.is_string or given.text is not None) if yields_one is None else yields_one
        document, own_notes = _to_document(given, head, name=f"{field}[{index}]", index=index, yields_one=own)
        documents.append(document)
        notes += [f"{field}[{index}]: {note}" for note in (*given.notes, *own_notes)]
    uploads = sum(isinstance(document, Upload | UrlDocument) for document in documents)
    check_document_count(uploads, head.max_uploads, field=field)
    return ReadDocuments(
        field=field,
        documents=tuple(documents),
        notes=tuple(notes[:_MAX_NOTES]),
        metadata={index: given.metadata for index, given in enumerate(inputs) if given.metadata is not None},
        are_strings=all(given.is_string for given in inputs),
        first_stage_scores={
            index: given.first_stage_score for index, given in enumerate(inputs) if given.first_stage_score is not None
        },
    )


def ignored_in(inputs: Sequence[DocumentInput], *, field: str = "documents") -> Iterator[str]:
    """Names of fields of the documents that have no meaning."""
    for index, given in enumerate(inputs):
        yield from (f"{field}[{index}].{shortened(name)}" for name in given.model_extra or ())


def _to_document(
    given: DocumentInput, head: RequestHead, *, name: str, index: int, yields_one: bool
) -> tuple[QueryDocument, Sequence[str]]:
    """The record, and notes about it. name: of the document in the client's format."""

    def field(of: str) -> str:
        return name if given.is_string else f"{name}.{of}"  # a string has no fields

    label = given.id or f"document-{index}"
    if given.image is not None or given.pdf is not None:
        kind: Media = "pdf" if given.pdf is not None else "image"
        content = given.pdf if given.pdf is not None else given.image or ""
        return Upload(
            name=field(kind), content=content, kind=kind, pages=given.pages, label=label, yields_one=yields_one
        ), ()
    if given.url is not None and given.is_string and not head.fetches_urls:
        note = "it is ranked as a text, because this service does not fetch URLs"
        return TextDocument(name=name, text=given.url, label=label, yields_one=yields_one), (note,)
    if given.url is not None:
        return UrlDocument(
            name=field("url"),
            url=given.url,
            pages=given.pages,
            label=given.id or _file_name(given.url) or label,
            yields_one=yields_one,
        ), ()
    if given.text is not None:
        return TextDocument(name=field("text"), text=given.text, label=label, yields_one=yields_one), ()
    return _reference(given, name=field("id"), index=index, yields_one=yields_one), ()


def _file_name(url: str) -> str:
    try:
        return PurePosixPath(unquote(urlsplit(url).path)).name[:MAX_LABEL_LENGTH]
    except ValueError:
        return ""  # a malformed URL, which the fetch refuses


def _reference(given: DocumentInput, *, name: str, index: int, yields_one: bool) -> DocumentReference:
    assert given.id is not None, "the schema asks for the id where there is no source"
    found = _REFERENCE.fullmatch(given.id)
    if found is None:
        message = (
            f"{name}: it names a registered document (1 to 128 of the characters A-Z a-z 0-9 . _ -), or a page of it as in "
            "report#page=3."
        )
        raise InvalidRequestError("invalid_request", message, param=name, document_index=index)
    if found[2] and given.pages is not None:
        message = f"{name}: it names a page, and there is a pages field too. Send one of them."
        raise InvalidRequestError("invalid_request", message, param=name, document_index=index)
    return DocumentReference(name=name, id=found[1], pages=found[2] or given.pages, yields_one=yields_one)
