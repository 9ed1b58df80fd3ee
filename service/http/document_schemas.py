"""JSON bodies and the query string of the routes of registered documents. Answers are dumped from these models."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from service.dialects.faults import to_service_error
from service.registered.store import Listing, StoredDocument


class DocumentPage(BaseModel):
    id: str = Field(description="names the page in a rerank request and its answer")
    page: int | None = Field(description="1-based page number; null for a single image")


class DocumentFailure(BaseModel):
    """The first page of a registered document that could not be processed. The other pages can be ranked all the same."""

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
    expires: int | None = Field(
        None, description="present where `ttl_seconds` was sent: when the document is deleted, in seconds since 1970"
    )
    error: DocumentFailure | None = Field(None, description="present in state failed")


class RegisteredDocumentPages(RegisteredDocument):
    """Body of the answer to `PUT` and `GET /documents/{id}`."""

    pages: list[DocumentPage]


class RegisteredDocuments(BaseModel):
    """Body of the answer to `GET /documents`."""

    object: str = "list"
    data: list[RegisteredDocument] = Field(description="sorted by id")
    next: str | None = Field(description="send it as `after` for the documents that follow; null: there are none")


def _whole_number(value: Any) -> Any:
    """Query strings hold texts."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


PageImageWidth = Annotated[Literal[160, 320, 800, 1600], BeforeValidator(_whole_number)]


class DocumentsQuery(BaseModel):
    """The query string of `GET /documents`."""

    limit: int = Field(100, ge=1, le=1000, description="documents in one answer")
    after: str = Field("", max_length=128, description="the `next` of the answer before")


class PutQuery(BaseModel):
    """The query string of `PUT /documents/{id}`."""

    ttl_seconds: int | None = Field(
        None, ge=1, le=31_536_000, description="the document is deleted after so many seconds; absent: it stays"
    )


class PageImageQuery(BaseModel):
    """The query string of `GET /documents/{id}/pages/{page}/image`."""

    width: PageImageWidth = Field(320, description="pixels; the image is at most this wide, and no page is enlarged")


Query = TypeVar("Query", bound=BaseModel)


def parse_query(schema: type[Query], fields: Mapping[str, str]) -> Query:
    """The query string by its schema. Raises: InvalidRequestError."""
    try:
        return schema.model_validate(dict(fields))
    except ValidationError as error:
        raise to_service_error(error) from error


def describe_document(document: StoredDocument) -> RegisteredDocumentPages:
    manifest = document.manifest
    if manifest.is_paged:
        numbers = range(1, manifest.page_count + 1)
        pages = [DocumentPage(id=f"{manifest.id}#page={number}", page=number) for number in numbers]
    else:
        pages = [DocumentPage(id=manifest.id, page=None)]
    return RegisteredDocumentPages(**_facts(document), pages=pages)


def describe_listing(listing: Listing) -> RegisteredDocuments:
    documents = [RegisteredDocument(**_facts(document)) for document in listing.documents]
    return RegisteredDocuments(object="list", data=documents, next=listing.next)


def _facts(document: StoredDocument) -> dict[str, Any]:
    """The fields of `RegisteredDocument`; error is left unset where there is none, and so not dumped."""
    manifest = document.manifest
    facts: dict[str, Any] = {
        "id": manifest.id,
        "state": document.state,
        "page_count": manifest.page_count,
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "created": manifest.created,
    }
    if manifest.expires is not None:
        facts["expires"] = manifest.expires
    if document.outcome is not None and (failure := document.outcome.failure):
        message = failure.message if failure.page is None else f"page {failure.page}: {failure.message}"
        facts["error"] = DocumentFailure(code=failure.code, message=message, page=failure.page)
    return facts
