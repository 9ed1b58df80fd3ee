"""Documents as they were sent, and registered ones by name, to sources of pages: base64, size, file kind, page selection.

Checks go from cheap to dear, so that a bad request costs little; nothing is opened here. Knows neither the pool nor HTTP.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.dialects.submission import DocumentReference, SubmittedDocument
from service.documents.selection import PageSelection, parse_page_selection
from service.errors import (
    InvalidRequestError,
    PageOutOfRangeError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaTypeError,
    UnusableDocumentError,
)
from service.raster.page import SINGLE_IMAGE, DocumentOutline
from service.raster.request import Kind

_DATA_URI = re.compile(r"data:(?:[a-zA-Z0-9.+/-]{1,50}(?:;[a-zA-Z0-9=.+-]{1,20})?)?;base64,")
_LONGEST_DATA_URI_PREFIX = 96
_DECODE_STEP = 1 << 20  # characters: a step holds the interpreter for about 3 ms
_PDF_MAGIC_WITHIN = 1024
_SINGLE_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSource:
    """One document of which pages are wanted, wherever its bytes are."""

    label: str  # prefix of its pages' ids in the answer
    sha256: str  # of the document's bytes, hex
    kind: Kind
    read: Callable[[], bytes | bytearray]  # may block: called in a thread, and only when a page must be rendered
    pages: PageSelection | None  # None: all
    outline: DocumentOutline | None = None  # None: not known before the document is opened
    is_stored: bool = False  # `read` gets the bytes from the document store


FindDocument = Callable[[str, PageSelection | None], PageSource]
"""A registered document's pages by its id. Blocks. Raises: DocumentNotFoundError and what the store raises."""


def decode_documents(
    documents: Sequence[SubmittedDocument | DocumentReference], *, max_file_bytes: int, find: FindDocument
) -> list[PageSource]:
    """Bytes, kind and hash of every document; `find` knows the registered ones. Runs in a thread.

    Raises: UnusableDocumentError, UnsupportedMediaTypeError, TooLargeError, InvalidRequestError, PageOutOfRangeError; what
    `find` raises.
    """
    decoded = []
    for index, document in enumerate(documents):
        try:
            if isinstance(document, DocumentReference):
                decoded.append(find(document.id, _parse_pages(document)))
            else:
                decoded.append(_decode_document(document, max_file_bytes))
        except ServiceError as error:
            error.document_index = index
            raise
    return decoded


def _decode_document(document: SubmittedDocument, max_file_bytes: int) -> PageSource:
    pages = _parse_pages(document)
    data = _content(document, max_file_bytes)
    _check_size(len(data), document.field, max_file_bytes)
    if not data:
        raise _empty(document)
    return PageSource(
        label=document.label,
        sha256=hashlib.sha256(data).hexdigest(),
        kind=_check_kind(data, document),
        read=lambda: data,
        pages=pages,
        outline=SINGLE_IMAGE if _is_single_image(data) else None,
    )


def _content(document: SubmittedDocument, max_file_bytes: int) -> bytearray:
    if isinstance(document.content, str):
        return _decode_base64(document.content, document.field, max_file_bytes)
    return document.content


def _parse_pages(document: SubmittedDocument | DocumentReference) -> PageSelection | None:
    if document.pages is None:
        return None
    try:
        return parse_page_selection(document.pages)
    except (InvalidRequestError, PageOutOfRangeError) as error:
        error.param = "pages"
        raise


def _decode_base64(text: str, field: str, max_file_bytes: int) -> bytearray:
    """Strictly, and in steps, so that decoding 30 MB in a thread does not hold the interpreter for 80 ms at a stretch."""
    if re.match(r"https?://|file://|ftp://", text, re.IGNORECASE):
        raise UnusableDocumentError(
            "url_not_supported", f"{field}: URLs are not fetched. Send the bytes as base64 or multipart.", param=field
        )
    if prefix := _DATA_URI.match(text[:_LONGEST_DATA_URI_PREFIX]):
        text = text[prefix.end() :]
    _check_size(len(text) // 4 * 3 - text[-2:].count("="), field, max_file_bytes)
    decoded = bytearray()
    try:
        if len(text) % 4:
            raise binascii.Error
        for start in range(0, len(text), _DECODE_STEP):
            piece = text[start : start + _DECODE_STEP]
            if "=" in piece and start + _DECODE_STEP < len(text):
                raise binascii.Error
            decoded += base64.b64decode(piece, validate=True)
    except (binascii.Error, ValueError):
        message = f"{field}: not standard base64 (alphabet A-Z a-z 0-9 + /, padded, no line breaks)."
        raise UnusableDocumentError("invalid_base64", message, param=field) from None
    return decoded


def _check_size(size: int, field: str, limit: int) -> None:
    if size > limit:
        message = f"{field}: {size} bytes and the limit is {limit}. Send fewer pages or smaller images."
        raise TooLargeError("file_too_large", message, param=field)


def _empty(document: SubmittedDocument) -> UnusableDocumentError:
    if document.kind == "image":
        return UnusableDocumentError("corrupt_image", f"{document.field}: the image is empty.", param=document.field)
    return UnusableDocumentError("corrupt_document", f"{document.field}: the document is empty.", param=document.field)


def _check_kind(data: bytearray, document: SubmittedDocument) -> Kind:
    kind = kind_by_magic(data)
    if kind is None:
        message = f"{document.field}: neither a PDF nor a PNG, JPEG, WebP, TIFF, GIF or BMP image."
        raise UnsupportedMediaTypeError("unsupported_media_type", message, param=document.field)
    if isinstance(document.content, str) and kind != document.kind:
        message = f"{document.field}: the data is {_ARTICLE[kind]}; send it as {kind!r}."
        raise UnsupportedMediaTypeError("unsupported_media_type", message, param=document.field)
    return kind


_ARTICLE = {"pdf": "a PDF", "image": "an image"}


def kind_by_magic(data: bytes | bytearray) -> Kind | None:
    """What the first bytes say, whatever the client called it."""
    if _is_single_image(data) or data.startswith(_TIFF_MAGIC):
        return "image"
    if b"%PDF-" in data[:_PDF_MAGIC_WITHIN]:
        return "pdf"
    return None


def _is_single_image(data: bytes | bytearray) -> bool:
    """Whether it can have one page only: of images, TIFF alone has pages, and must be opened to count them."""
    return data.startswith(_SINGLE_IMAGE_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
