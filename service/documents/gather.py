"""The documents of a query to sources of pages: base64, size, kind, hash and page selection; registered ones by their ids.

Checks go from cheap to expensive, so that a bad request costs little. No document is opened here. Errors carry the document's
index and the field that they are about.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from service.documents.inline_data import decode_inline
from service.documents.selection import PageSelection, parse_page_selection
from service.documents.sources import Content, MemorySource, Source, is_single_image, require_kind
from service.errors import (
    ServiceError,
    TooLargeError,
    UnsupportedMediaTypeError,
    UnusableDocumentError,
    is_of_document,
)
from service.raster.page import SINGLE_PAGE_OUTLINE, Kind
from service.raster.text_file import outline_of_text
from service.records import DocumentReference, QueryDocument, TextDocument, Upload, UrlDocument

_URL = re.compile(r"https?://|file://|ftp://", re.IGNORECASE)
_WITH_ARTICLE = {Kind.PDF: "a PDF", Kind.IMAGE: "an image"}


class RegisteredDocuments(Protocol):
    """The registered documents of all tenants."""

    def find_source(self, id: str, pages: PageSelection | None, *, tenant: bytes) -> Source:
        """A document of the tenant. Blocks. Raises: DocumentNotFoundError, InternalError, UnavailableError."""
        ...


async def gather(
    documents: Sequence[QueryDocument],
    *,
    tenant: bytes,
    registered: RegisteredDocuments,
    max_file_bytes: int,
    threads: Executor,
    fetched: Mapping[int, bytearray | ServiceError] = MappingProxyType({}),
) -> list[Source]:
    """One source per document, in their order. `threads` decode, hash and look up.

    fetched: the bytes of those documents that are URLs, by their indices, or the error of the fetch.
    Raises: UnusableDocumentError, UnsupportedMediaTypeError, TooLargeError, InvalidRequestError, PageOutOfRangeError about
    the first document at fault; the errors of `registered`.
    """
    find = _SourceFinder(tenant=tenant, registered=registered, max_file_bytes=max_file_bytes, fetched=fetched)
    return await asyncio.get_running_loop().run_in_executor(threads, find.sources, documents)


async def gather_usable(
    documents: Sequence[QueryDocument],
    *,
    tenant: bytes,
    registered: RegisteredDocuments,
    max_file_bytes: int,
    threads: Executor,
    fetched: Mapping[int, bytearray | ServiceError] = MappingProxyType({}),
) -> list[Source | ServiceError]:
    """As `gather`, but an unusable document has its error in the place of its source.

    Raises: InvalidRequestError; InternalError, UnavailableError of `registered`.
    """
    find = _SourceFinder(tenant=tenant, registered=registered, max_file_bytes=max_file_bytes, fetched=fetched)
    return await asyncio.get_running_loop().run_in_executor(threads, find.usable_sources, documents)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SourceFinder:
    """Blocks, so it is called in a thread."""

    tenant: bytes
    registered: RegisteredDocuments
    max_file_bytes: int
    fetched: Mapping[int, bytearray | ServiceError]

    def sources(self, documents: Sequence[QueryDocument]) -> list[Source]:
        return [self._source(index, document) for index, document in enumerate(documents)]

    def usable_sources(self, documents: Sequence[QueryDocument]) -> list[Source | ServiceError]:
        found: list[Source | ServiceError] = []
        for index, document in enumerate(documents):
            try:
                found.append(self._source(index, document))
            except ServiceError as error:
                if not is_of_document(error):
                    raise
                found.append(error)
        return found

    def _source(self, index: int, document: QueryDocument) -> Source:
        """Raises: ServiceError with the document's index."""
        try:
            match document:
                case DocumentReference():
                    pages = _selection(document.pages)
                    return self.registered.find_source(document.id, pages, tenant=self.tenant)
                case Upload():
                    pages = _selection(document.pages)
                    content = _read_upload(document, self.max_file_bytes)
                    return MemorySource(label=document.label, pages=pages, content=content)
                case TextDocument():
                    content = _read_text(document.text, self.max_file_bytes)
                    return MemorySource(label=document.label, pages=None, content=content)
                case UrlDocument():
                    pages = _selection(document.pages)
                    content = _read_bytes(self._fetched_bytes(index), None)
                    return MemorySource(label=document.label, pages=pages, content=content)
        except ServiceError as error:
            raise error.at(document_index=index) from error

    def _fetched_bytes(self, index: int) -> bytearray:
        """Raises: ServiceError."""
        found = self.fetched.get(index)
        if found is None:
            raise _url_refused()
        if isinstance(found, ServiceError):
            raise found
        return found


def _selection(pages: str | None) -> PageSelection | None:
    return None if pages is None else parse_page_selection(pages)


def _read_upload(upload: Upload, max_file_bytes: int) -> Content:
    is_base64 = isinstance(upload.content, str)
    data = _decode_text(upload.content, max_file_bytes) if isinstance(upload.content, str) else upload.content
    _require_size(len(data), max_file_bytes)
    # The kind of a file part is derived from its media type, which many clients get wrong.
    return _read_bytes(data, None if upload.kind is None else Kind(upload.kind), is_kind_binding=is_base64)


def _read_bytes(data: bytearray, declared: Kind | None, *, is_kind_binding: bool = False) -> Content:
    """declared: by the client. is_kind_binding: data of another kind are refused."""
    if not data:
        code, noun = ("corrupt_image", "image") if declared is Kind.IMAGE else ("corrupt_document", "document")
        raise UnusableDocumentError(code, f"the {noun} is empty.", field="content")
    try:
        kind = require_kind(data)
    except UnsupportedMediaTypeError as error:
        raise error.at(field="content") from error
    if is_kind_binding and declared not in (None, kind):
        message = f"the data is {_WITH_ARTICLE[kind]}; send it as '{kind}'."
        raise UnsupportedMediaTypeError("unsupported_media_type", message, field="content")
    return Content(
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        kind=kind,
        outline=SINGLE_PAGE_OUTLINE if is_single_image(data) else None,
    )


def _read_text(text: str, max_file_bytes: int) -> Content:
    if not text or text.isspace():
        message = "the text is empty or has only spaces. Send at least one letter."
        raise UnusableDocumentError("empty_text", message, field="content")
    if len(text) > max_file_bytes:  # it has as many bytes, at least
        raise _too_long(f"more than {max_file_bytes}", max_file_bytes)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry in an escape
        data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    if len(data) > max_file_bytes:
        raise _too_long(str(len(data)), max_file_bytes)
    return Content(data=data, sha256=hashlib.sha256(data).hexdigest(), kind=Kind.TEXT, outline=outline_of_text(text))


def _too_long(size: str, limit: int) -> TooLargeError:
    message = f"{size} bytes in UTF-8 and the limit is {limit}. Send the text in parts."
    return TooLargeError("file_too_large", message, field="content")


def _url_refused() -> UnusableDocumentError:
    message = "URLs are not fetched. Send the document itself."
    return UnusableDocumentError("url_not_supported", message, field="content")


def _decode_text(text: str, max_file_bytes: int) -> bytearray:
    if _URL.match(text):
        raise _url_refused()
    return decode_inline(text, max_file_bytes)


def _require_size(size: int, limit: int) -> None:
    if size > limit:
        message = f"{size} bytes and the limit is {limit}. Send fewer pages or smaller images."
        raise TooLargeError("file_too_large", message, field="content")
