"""Sources of pages to pages that the model takes: from the cache what is there, the rest from the raster pool.

Of the model it knows what a prepared page is, and nothing of HTTP.
"""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from model import PageImageError, PreparedPage
from service.documents.page_cache import CachedPage, ContentKey, PageCache
from service.documents.sources import PageSource
from service.errors import PageOutOfRangeError, ServiceError, TooLargeError, UnusableDocumentError
from service.raster.page import DocumentOutline
from service.raster.pool import RasterDocument, Rasterizer, RasterPage
from service.tracing import Trace

FindSources = Callable[[], Sequence[PageSource]]
Prepare = Callable[[np.ndarray], PreparedPage]
Observe = Callable[[str, float], None]
Result = TypeVar("Result")


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
        find_sources: FindSources,
        prepare: Prepare,
        *,
        scope: bytes,
        background: bool = False,
        observe: Observe = _observe_nothing,
        trace: Trace | None = None,
    ) -> list[LoadedPage]:
        """The selected pages in document order, then in the order of the selection. Cancelling drops what is left.

        find_sources: called in a thread, and may block.
        prepare: called in the raster pool's threads, page by page as they come.
        scope: nothing is shared between scopes. background: yields to all other requests.
        observe: gets the seconds of fetch, render, decode and prepare, where there was any.
        trace: gets a span for each of them and each page.
        Raises: UnusableDocumentError, PageOutOfRangeError, TooLargeError about the documents; OverloadedError,
        UnavailableError about the pool; what `find_sources` and a source's `read` raise.
        """

        def begin() -> tuple[_Loading, list[RasterDocument]]:
            loading = _Loading(
                find_sources(), prepare, self._cache, scope=scope, max_pages=self._max_pages, trace=trace
            )
            return loading, loading.begin()

        loading, documents = await self._in_thread(begin)
        await self._rasterizer.rasterize(documents, plan=loading.plan, deliver=loading.deliver, background=background)
        for stage, seconds in loading.share_out().items():
            observe(stage, seconds)
        return loading.pages()

    async def outline(self, source: PageSource) -> DocumentOutline:
        """How many pages the document has; it is opened where the source does not know. Raises: what `load` raises."""
        if source.outline:
            return source.outline
        data = await self._in_thread(source.read)
        return await self._rasterizer.outline(
            RasterDocument(index=0, data=data, sha256=source.sha256, kind=source.kind)
        )

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


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
        self,
        sources: Sequence[PageSource],
        prepare: Prepare,
        cache: PageCache,
        *,
        scope: bytes,
        max_pages: int,
        trace: Trace | None,
    ) -> None:
        self._prepare = prepare
        self._cache = cache
        self._max_pages = max_pages
        self._trace = trace
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._documents = [
            _Document(index=index, source=source, key=ContentKey(scope, source.sha256))
            for index, source in enumerate(sources)
        ]
        self._incomplete: list[_Document] = []

    def begin(self) -> list[RasterDocument]:
        """Find what the cache has, and read the documents of which something is missing. Blocks."""
        for document in self._documents:
            if outline := document.source.outline or self._cache.outline(document.key):
                self._find_pages(document, outline)
        self._incomplete = [document for document in self._documents if document.is_incomplete]
        return [self._with_bytes(document) for document in self._incomplete]

    def plan(self, outlines: Sequence[DocumentOutline]) -> list[tuple[int, ...]]:
        """The missing pages of the incomplete documents. Raises: PageOutOfRangeError, TooLargeError, about all documents."""
        for document, outline in zip(self._incomplete, outlines, strict=True):
            if document.outline is None:
                self._cache.put_outline(document.key, outline)
                self._find_pages(document, outline)
        _check_selection(self._documents, self._max_pages)
        return [document.missing for document in self._incomplete]

    def deliver(self, page: RasterPage) -> None:
        """Raises: UnusableDocumentError."""
        document = self._documents[page.document_index]
        started = time.perf_counter()
        cached = CachedPage(prepared=self._prepared(document, page), degraded=page.degraded)
        document.pages[page.number] = cached
        self._cache.put_page(document.key, page.number, cached)
        prepare_seconds = time.perf_counter() - started
        stage = "render" if document.source.kind == "pdf" else "decode"
        with self._lock:
            self._seconds[stage] += page.seconds
            self._seconds["prepare"] += prepare_seconds
        if self._trace is not None:
            of_page = {"ziprerank.document": document.index, "ziprerank.page": page.number}
            self._trace.stage(stage, began_ns=page.began_ns, ended_ns=page.ended_ns, attributes=of_page)
            self._trace.stage_ended("prepare", prepare_seconds, of_page)

    def share_out(self) -> dict[str, float]:
        """The time since the beginning, by stage in proportion to the work: pages are rendered and prepared side by side."""
        wall_seconds = time.perf_counter() - self._started
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

    def _with_bytes(self, document: _Document) -> RasterDocument:
        source = document.source
        return RasterDocument(
            index=document.index,
            data=self._fetch(document) if source.is_stored else _read_source(document),
            sha256=source.sha256,
            kind=source.kind,
            outline=document.outline,
        )

    def _fetch(self, document: _Document) -> bytes | bytearray:
        started = time.perf_counter()
        data = _read_source(document)
        seconds = time.perf_counter() - started
        self._seconds["fetch"] += seconds
        if self._trace is not None:
            of_document = {"ziprerank.document": document.index}
            self._trace.stage_ended("fetch", seconds, of_document)
        return data

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


def _read_source(document: _Document) -> bytes | bytearray:
    try:
        return document.source.read()
    except ServiceError as error:
        error.document_index = document.index
        raise
