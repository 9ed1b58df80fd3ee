"""Documents to pages that the model takes: base64, size, file kind, page selection, then the cache and the raster pool.

Checks go from cheap to dear, so that a bad request costs little. Of the model it knows what a prepared page is, and nothing of
HTTP.
"""

import asyncio
import base64
import binascii
import hashlib
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from model import PageImageError, PreparedPage
from service.errors import (
    InvalidRequestError,
    PageOutOfRangeError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaTypeError,
    UnusableDocumentError,
)
from service.page_cache import CachedPage, ContentKey, PageCache
from service.page_selection import PageSelection, parse_page_selection
from service.raster.page import SINGLE_IMAGE, DocumentOutline
from service.raster.pool import RasterDocument, Rasterizer, RasterPage
from service.submission import DocumentReference, SubmittedDocument

__all__ = ["DocumentOutline", "LoadedPage", "PageLoader", "PageSource", "decode_documents", "kind_by_magic"]

Kind = Literal["pdf", "image"]
Prepare = Callable[[np.ndarray], PreparedPage]
Observe = Callable[[str, float], None]

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


FindDocument = Callable[[str, PageSelection | None], PageSource]
"""A registered document's pages by its id. Blocks. Raises: DocumentNotFoundError and what the store raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPage:
    """A page of a request's document, ready for the model."""

    document_index: int
    number: int | None  # 1-based; None for a single image
    label: str  # the document's, with #page=N where it has pages
    prepared: PreparedPage
    degraded: bool
    document_sha256: str


def _observe_nothing(stage: str, seconds: float) -> None:
    pass


class PageLoader:
    """Pages from the cache, and from the raster pool what is not there. `threads` wait for documents' bytes."""

    def __init__(self, rasterizer: Rasterizer, cache: PageCache, threads: Executor, *, max_pages: int) -> None:
        self._rasterizer = rasterizer
        self._cache = cache
        self._threads = threads
        self._max_pages = max_pages

    async def load(
        self,
        sources: Sequence[PageSource],
        prepare: Prepare,
        *,
        scope: bytes,
        background: bool = False,
        observe: Observe = _observe_nothing,
    ) -> list[LoadedPage]:
        """The selected pages in document order, then in the order of the selection. Cancelling drops what is left.

        prepare: called in the raster pool's threads, page by page as they come. scope: nothing is shared between scopes.
        background: yields to all other requests. observe: gets the seconds of render, decode and prepare, where there was any.
        Raises: UnusableDocumentError, PageOutOfRangeError, TooLargeError about the documents; OverloadedError,
        UnavailableError about the pool; what a source's `read` raises.
        """
        loading = _Loading(sources, prepare, self._cache, scope=scope, max_pages=self._max_pages)
        started = time.perf_counter()
        documents = await self._read(loading.incomplete)
        await self._rasterizer.rasterize(documents, plan=loading.plan, deliver=loading.deliver, background=background)
        for stage, seconds in loading.share_out(time.perf_counter() - started).items():
            observe(stage, seconds)
        return loading.pages()

    async def outline(self, source: PageSource) -> DocumentOutline:
        """How many pages the document has; it is opened where the source does not know. Raises: what `load` raises."""
        if source.outline:
            return source.outline
        data = await asyncio.get_running_loop().run_in_executor(self._threads, source.read)
        return await self._rasterizer.outline(
            RasterDocument(index=0, data=data, sha256=source.sha256, kind=source.kind)
        )

    async def _read(self, documents: "Sequence[_Document]") -> list[RasterDocument]:
        if not documents:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._threads, _read, documents)


@dataclass(slots=True, kw_only=True)
class _Document:
    """One source of a request, and what has become known of it."""

    index: int
    source: PageSource
    key: ContentKey
    outline: DocumentOutline | None = None
    numbers: tuple[int, ...] = ()  # of the selected pages
    pages: dict[int, CachedPage] = field(default_factory=dict)  # by number, those that are there

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(number for number in self.numbers if number not in self.pages)

    @property
    def is_incomplete(self) -> bool:
        return self.outline is None or bool(self.missing)

    def selected_spans(self) -> tuple[range, ...]:
        """Raises: PageOutOfRangeError."""
        assert self.outline is not None, "pages are selected once it is known how many there are"
        selection, page_count = self.source.pages, self.outline.page_count
        return (range(1, page_count + 1),) if selection is None else selection.spans(page_count)


class _Loading:
    """The pages of one request as they come together. The raster pool's threads call `plan` once, and then `deliver`."""

    def __init__(
        self, sources: Sequence[PageSource], prepare: Prepare, cache: PageCache, *, scope: bytes, max_pages: int
    ) -> None:
        self._prepare = prepare
        self._cache = cache
        self._max_pages = max_pages
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._documents = [
            _Document(index=index, source=source, key=ContentKey(scope, source.sha256))
            for index, source in enumerate(sources)
        ]
        for document in self._documents:
            if outline := document.source.outline or cache.outline(document.key):
                self._find_pages(document, outline)
        self.incomplete = [document for document in self._documents if document.is_incomplete]

    def plan(self, outlines: Sequence[DocumentOutline]) -> list[tuple[int, ...]]:
        """The missing pages of the incomplete documents. Raises: PageOutOfRangeError, TooLargeError, about all documents."""
        for document, outline in zip(self.incomplete, outlines, strict=True):
            if document.outline is None:
                self._cache.put_outline(document.key, outline)
                self._find_pages(document, outline)
        _check_selection(self._documents, self._max_pages)
        return [document.missing for document in self.incomplete]

    def deliver(self, page: RasterPage) -> None:
        """Raises: UnusableDocumentError."""
        document = self._documents[page.document_index]
        started = time.perf_counter()
        cached = CachedPage(prepared=self._prepared(document, page), degraded=page.degraded)
        document.pages[page.number] = cached
        self._cache.put_page(document.key, page.number, cached)
        with self._lock:
            self._seconds["render" if document.source.kind == "pdf" else "decode"] += page.seconds
            self._seconds["prepare"] += time.perf_counter() - started

    def share_out(self, wall_seconds: float) -> dict[str, float]:
        """The time that loading took, by stage in proportion to the work: pages are rendered and prepared side by side."""
        work = sum(self._seconds.values())
        return {stage: wall_seconds * seconds / work for stage, seconds in self._seconds.items()}

    def pages(self) -> list[LoadedPage]:
        return [_loaded(document, number) for document in self._documents for number in document.numbers]

    def _find_pages(self, document: _Document, outline: DocumentOutline) -> None:
        document.outline = outline
        with suppress(PageOutOfRangeError):  # `plan` tells, when all documents are known
            spans = document.selected_spans()
            if sum(map(len, spans)) <= self._max_pages:
                document.numbers = tuple(number for span in spans for number in span)
        found = ((number, self._cache.page(document.key, number)) for number in document.numbers)
        document.pages = {number: page for number, page in found if page is not None}

    def _prepared(self, document: _Document, page: RasterPage) -> PreparedPage:
        try:
            return self._prepare(page.pixels)
        except PageImageError as error:
            raise UnusableDocumentError(
                "bad_page_box",
                f"documents[{document.index}]: {error}",
                document_index=document.index,
                page=_shown_number(document, page.number),
            ) from error


def _check_selection(documents: Sequence[_Document], max_pages: int) -> None:
    total = 0
    for document in documents:
        try:
            total += sum(map(len, document.selected_spans()))
        except PageOutOfRangeError as error:
            message = f"documents[{document.index}]: {error.message}"
            raise PageOutOfRangeError(error.code, message, param="pages", document_index=document.index) from error
    if total > max_pages:
        raise TooLargeError(
            "too_many_pages",
            f"documents: {total} pages are selected, at most {max_pages} are accepted; select fewer, or send several "
            "requests.",
        )


def _loaded(document: _Document, number: int) -> LoadedPage:
    page, shown_number = document.pages[number], _shown_number(document, number)
    return LoadedPage(
        document_index=document.index,
        number=shown_number,
        label=document.source.label if shown_number is None else f"{document.source.label}#page={number}",
        prepared=page.prepared,
        degraded=page.degraded,
        document_sha256=document.source.sha256,
    )


def _shown_number(document: _Document, number: int) -> int | None:
    return number if document.outline is not None and document.outline.is_paged else None


def _read(documents: Sequence[_Document]) -> list[RasterDocument]:
    """The documents with their bytes. Blocks."""
    return [
        RasterDocument(
            index=document.index,
            data=_read_source(document),
            sha256=document.source.sha256,
            kind=document.source.kind,
            outline=document.outline,
        )
        for document in documents
    ]


def _read_source(document: _Document) -> bytes | bytearray:
    try:
        return document.source.read()
    except ServiceError as error:
        error.document_index = document.index
        raise


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
