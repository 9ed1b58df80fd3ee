"""Submitted documents to page images: base64, size, file kind, page selection, then the raster pool.

Checks go from cheap to dear, so that a bad request costs little. Knows neither the model nor HTTP.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.errors import (
    InvalidRequestError,
    PageOutOfRangeError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaTypeError,
    UnusableDocumentError,
)
from service.page_selection import PageSelection, parse_page_selection
from service.raster.pool import RasterDocument, Rasterizer, RasterPage
from service.submission import SubmittedDocument

Kind = Literal["pdf", "image"]

_DATA_URI = re.compile(r"data:(?:[a-zA-Z0-9.+/-]{1,50}(?:;[a-zA-Z0-9=.+-]{1,20})?)?;base64,")
_LONGEST_DATA_URI_PREFIX = 96
_DECODE_STEP = 1 << 20  # characters: a step holds the interpreter for about 3 ms
_PDF_MAGIC_WITHIN = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPage:
    """A page of a submitted document, ready for the model."""

    document_index: int
    number: int | None  # 1-based; None for a single image
    label: str  # the document's, with #page=N where it has pages
    pixels: np.ndarray  # uint8 (height, width, 3), longest edge at most 1024
    degraded: bool
    document_sha256: str


def decode_documents(documents: Sequence[SubmittedDocument], *, max_file_bytes: int) -> list[RasterDocument]:
    """Bytes and kind of every document. Runs in a thread.

    Raises: UnusableDocumentError, UnsupportedMediaTypeError, TooLargeError, InvalidRequestError, PageOutOfRangeError.
    """
    decoded = []
    for index, document in enumerate(documents):
        try:
            decoded.append(_decode_document(document, max_file_bytes))
        except ServiceError as error:
            error.document_index = index
            raise
    return decoded


async def load_pages(
    documents: Sequence[SubmittedDocument], decoded: Sequence[RasterDocument], rasterizer: Rasterizer
) -> list[LoadedPage]:
    """The selected pages in document order. Raises: what `Rasterizer.rasterize` raises."""
    pages = await rasterizer.rasterize(decoded)
    return [_loaded(page, documents[page.document_index].label) for page in pages]


def _loaded(page: RasterPage, label: str) -> LoadedPage:
    return LoadedPage(
        document_index=page.document_index,
        number=page.number,
        label=label if page.number is None else f"{label}#page={page.number}",
        pixels=page.pixels,
        degraded=page.degraded,
        document_sha256=page.document_sha256,
    )


def _decode_document(document: SubmittedDocument, max_file_bytes: int) -> RasterDocument:
    pages = _parse_pages(document)
    data = document.content
    if isinstance(data, str):
        data = _decode_base64(data, document.field, max_file_bytes)
    _check_size(len(data), document.field, max_file_bytes)
    if not data:
        raise _empty(document)
    return RasterDocument(data=data, kind=_check_kind(data, document), pages=pages)


def _parse_pages(document: SubmittedDocument) -> PageSelection | None:
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
    if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")):
        return "image"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return "image"
    if b"%PDF-" in data[:_PDF_MAGIC_WITHIN]:
        return "pdf"
    return None
