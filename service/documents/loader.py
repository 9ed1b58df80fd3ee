"""Sources of documents to pages as the model takes them: from the cache where it has them, from the raster pool otherwise."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Protocol

from model import PageImage, PageImageError, RankingModel
from service.documents.held_pages import PageShare
from service.documents.loaded import ListedPage, Loaded
from service.documents.page_cache import CachedPage, PageCache
from service.documents.requested_document import RequestedDocument
from service.documents.sources import Source
from service.errors import PageOutOfRangeError, ServiceError, TooLargeError, UnusableDocumentError, is_of_document
from service.raster.page import DocumentOutline, Kind
from service.raster.pool import PendingRaster, RasterDocument, Rasterizer, RasterPage
from service.tracing import Trace


class Pace(Protocol):
    """Says how much of a load there is time for, and learns how long its steps take. Called on the event loop."""

    def before_opening(self, documents: int) -> None:
        """So many documents must be opened to learn their number of pages. Raises: OverloadedError."""
        ...

    def after_opening(self, documents: int, seconds: float) -> None: ...

    def pages_to_load(self, pages: Sequence[ListedPage]) -> int:
        """How many of all selected pages, from the first one, to load. Raises: OverloadedError."""
        ...

    def seconds_to_load(self) -> float | None:
        """After so many seconds the pages that are ready must do. None: there is no limit."""
        ...

    def after_drawing(self, pages: Mapping[Kind, int], seconds: float) -> None:
        """So many pages by kind of document were drawn and prepared."""
        ...


class PageLoader:
    """Used on the event loop. `threads` read documents and prepare pages."""

    def __init__(self, rasterizer: Rasterizer, cache: PageCache, threads: Executor, *, max_pages: int) -> None:
        self._rasterizer = rasterizer
        self._cache = cache
        self._threads = threads
        self._max_pages = max_pages

    async def load(
        self,
        sources: Sequence[Source | ServiceError],
        model: RankingModel,
        *,
        tenant: bytes,
        share_id: str = "",
        threads: Executor | None = None,
        background: bool = False,
        pace: Pace | None = None,
        held: PageShare | None = None,
        skips_unusable: bool = False,
        trace: Trace | None = None,
    ) -> Loaded:
        """The selected pages. Each is prepared as soon as it is rendered. Cancelling drops the work that has not begun.

        sources: with the error in the place of a document that is known to be unusable, where those are skipped.
        tenant: tenants share nothing in the cache. share_id: callers share the raster pool fairly, see `Caller.share_id`.
        threads: the caller's, in place of the loader's. background: yields to all other requests. pace: None: all pages are
        loaded, however long it takes. held: counts the pages that are to be drawn; None: they are not counted.
        skips_unusable: a document or page that is unusable is left out; the first error is raised where no page is left.
        trace: gets a span for each stage of each document or page.
        Raises: UnusableDocumentError, PageOutOfRangeError, TooLargeError about the first document or page at fault;
        OverloadedError, UnavailableError about the pool; the errors of a source's `read`.
        """
        threads = threads or self._threads
        loading = _Loading(
            sources,
            model,
            cache=self._cache,
            threads=threads,
            tenant=tenant,
            max_pages=self._max_pages,
            skips_unusable=skips_unusable,
            trace=trace,
        )
        await asyncio.get_running_loop().run_in_executor(threads, loading.read_documents)
        documents = loading.raster_documents()
        rastered = self._rasterizer.request(
            documents, share_id=share_id, background=background, skips_unusable=skips_unusable
        )
        async with rastered as request:
            loading.select_pages(await _opened(request, documents, pace))
            if pace is not None:
                loading.keep_first(pace.pages_to_load(loading.listed()))
            if held is not None:
                held.take(loading.missing_count)
            await loading.make_pages(request, pace)
        return loading.loaded()

    async def outline(self, source: Source) -> DocumentOutline:
        """The number of the document's pages; it is opened where the source does not know. Raises: see `load`."""
        if source.outline:
            return source.outline
        content = await asyncio.get_running_loop().run_in_executor(self._threads, source.read)
        document = RasterDocument(
            index=None, data=content.data, sha256=content.sha256, kind=content.kind, outline=content.outline
        )
        async with self._rasterizer.request([document]) as request:
            [outline] = await request.opened()
        return outline


async def _opened(
    request: PendingRaster, documents: Sequence[RasterDocument], pace: Pace | None
) -> Sequence[DocumentOutline | ServiceError]:
    unknown = sum(document.outline is None for document in documents)
    if pace is None or not unknown:
        return await request.opened_or_skipped()
    pace.before_opening(unknown)
    started = time.perf_counter()
    outlines = await request.opened_or_skipped()
    pace.after_opening(unknown, time.perf_counter() - started)
    return outlines


class _Preparation:
    """The jobs that prepare one request's pages: counted down in their threads, awaited on the event loop."""

    def __init__(self, pages: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pages_left = pages
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.errors: dict[int, Exception] = {}  # by the page's position
        self.is_wanted = True  # False: jobs that have not begun do nothing

    def end_page(self) -> None:
        with self._lock:
            self._pages_left -= 1
            is_last = not self._pages_left
        if is_last and self.is_wanted:
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Loading:
    """One call of `PageLoader.load`, stage by stage."""

    def __init__(
        self,
        sources: Sequence[Source | ServiceError],
        model: RankingModel,
        *,
        cache: PageCache,
        threads: Executor,
        tenant: bytes,
        max_pages: int,
        skips_unusable: bool,
        trace: Trace | None,
    ) -> None:
        self._started = time.perf_counter()
        self._work_seconds: dict[str, float] = defaultdict(float)  # by stage, summed over threads and processes
        self._lock = threading.Lock()  # of the seconds
        self._model = model
        self._threads = threads
        self._tenant = tenant
        self._max_pages = max_pages
        self._skips_unusable = skips_unusable
        self._trace = trace
        self._sources = sources
        self._cache = cache
        self._documents: list[RequestedDocument] = []
        self._incomplete: list[RequestedDocument] = []
        self._skipped: list[ServiceError] = []

    def read_documents(self) -> None:
        """Look all documents up in the cache, and read those with pages missing from it. Blocks. Raises: ServiceError."""
        for index, source in enumerate(self._sources):
            if isinstance(source, ServiceError):
                self._skip(source)
            else:
                self._documents.append(self._document(index, source))
        incomplete = [document for document in self._documents if document.is_incomplete]
        for document in incomplete:
            started = time.perf_counter()
            try:
                document.read()
            except ServiceError as error:
                self._skip_document(document, error)
                continue
            if not document.source.is_in_memory:
                seconds = time.perf_counter() - started
                self._work_seconds["fetch"] += seconds
                if self._trace is not None:
                    self._trace.stage_ended("fetch", seconds, {"ziprerank.document": document.index})
        # A document that was replaced meanwhile, or had no hash before, may be complete in the cache.
        self._incomplete = [
            document for document in incomplete if document.content is not None and document.is_incomplete
        ]

    def raster_documents(self) -> list[RasterDocument]:
        text_page = self._model.text_page
        return [document.raster_document(text_page) for document in self._incomplete]

    def select_pages(self, outlines: Sequence[DocumentOutline | ServiceError]) -> None:
        """outlines: of the raster documents, or the errors for which they are skipped.

        Raises: PageOutOfRangeError, TooLargeError, over all documents.
        """
        for document, outline in zip(self._incomplete, outlines, strict=True):
            if isinstance(outline, ServiceError):
                self._skip_document(document, outline)
            else:
                document.take_outline(outline)
        total = 0
        for document in list(self._documents):
            try:
                total += sum(len(span) for span in document.selected_spans())
            except PageOutOfRangeError as error:
                self._skip_document(document, error)
                continue
            if (missing := document.missing_page_error()) is not None:
                self._skip(missing)
        if total > self._max_pages:
            raise TooLargeError(
                "too_many_pages",
                f"{total} pages are selected, at most {self._max_pages} are accepted; select fewer, or send several "
                "requests.",
                field="documents",
            )

    def listed(self) -> list[ListedPage]:
        """All selected pages, once they are selected."""
        return [page for document in self._documents for page in document.listed_pages()]

    def keep_first(self, count: int) -> None:
        """Load only the first pages, so many of all documents together."""
        for document in self._documents:
            document.keep_first(count)
            count -= document.page_count

    @property
    def missing_count(self) -> int:
        """Pages that are to be drawn."""
        return sum(len(document.missing) for document in self._incomplete)

    async def make_pages(self, request: PendingRaster, pace: Pace | None) -> None:
        """Render and prepare the missing pages, as many as there is time for.

        Raises: ServiceError, of the first page at fault that is not skipped.

        A rendered page goes straight from the raster pool to a job in the prepare threads; the event loop waits for the end.
        """
        wanted = [(document, number) for document in self._incomplete for number in document.missing]
        if not wanted:
            return
        preparation = _Preparation(len(wanted))
        rendering = request.render([document.missing for document in self._incomplete])
        for position, (document, number) in enumerate(wanted):
            job = partial(self._prepare, preparation, position, document, number)
            rendering[position].add_done_callback(partial(self._threads.submit, job))
        rendering.clear()  # each job has its page alone, and frees the pixels
        started = time.perf_counter()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if pace is None else pace.seconds_to_load()):
                    await preparation.ended
        finally:
            preparation.is_wanted = False
        for position, failure in sorted(preparation.errors.items()):
            if not isinstance(failure, ServiceError):
                raise failure
            self._skip(failure)
            document, number = wanted[position]
            document.leave_out(number)
        if pace is not None:
            drawn = Counter(document.read_kind for document, number in wanted if number in document.pages)
            pace.after_drawing(drawn, time.perf_counter() - started)
            self._keep_ready_pages()

    def loaded(self) -> Loaded:
        """Raises: ServiceError, the first one, where all pages were skipped."""
        pages = tuple(page for document in self._documents for page in document.loaded_pages())
        unloaded = tuple(page for document in self._documents for page in document.unloaded_pages())
        skipped = sorted(self._skipped, key=lambda error: (error.document_index or 0, error.page or 0))
        if skipped and not pages and not unloaded:
            raise skipped[0]
        # Stages run side by side, so each gets a share of the wall time in proportion to its work.
        wall_seconds = time.perf_counter() - self._started
        work = sum(self._work_seconds.values())
        shares = {stage: wall_seconds * seconds / work for stage, seconds in self._work_seconds.items()}
        return Loaded(pages=pages, stage_seconds=shares, unloaded=unloaded, skipped=tuple(skipped))

    def _keep_ready_pages(self) -> None:
        """Keep the first pages, up to one that is not ready."""
        ready = 0
        for document in self._documents:
            ready += document.ready_count
            if document.ready_count < document.page_count:
                self.keep_first(ready)
                return

    def _document(self, index: int, source: Source) -> RequestedDocument:
        return RequestedDocument(
            source,
            index=index,
            tenant=self._tenant,
            cache=self._cache,
            max_pages=self._max_pages,
            skips_missing_pages=self._skips_unusable,
        )

    def _skip_document(self, document: RequestedDocument, error: ServiceError) -> None:
        """Raises: see `_skip`."""
        self._skip(error)
        self._documents.remove(document)

    def _skip(self, error: ServiceError) -> None:
        """Note the error. Raises: the error itself, where nothing is skipped or it is not about a document alone."""
        if not self._skips_unusable or not is_of_document(error):
            raise error
        self._skipped.append(error.at())  # without the traceback, whose frames hold the documents

    def _prepare(
        self,
        preparation: _Preparation,
        position: int,
        document: RequestedDocument,
        number: int,
        rendering: Future[RasterPage],
    ) -> None:
        """The job of one page, in a thread. rendering: done."""
        try:
            if preparation.is_wanted and not rendering.cancelled():
                self._prepare_page(document, number, rendering.result())
        except Exception as error:  # noqa: BLE001 (raised by `make_pages`)
            preparation.errors[position] = error
        finally:
            preparation.end_page()

    def _prepare_page(self, document: RequestedDocument, number: int, page: RasterPage) -> None:
        """Raises: UnusableDocumentError."""
        started = time.perf_counter()
        try:
            prepared = self._model.prepare_page(PageImage(pixels=page.pixels), tenant=self._tenant)
        except PageImageError as error:
            shown_number = document.shown_number(number)
            raise UnusableDocumentError(
                "bad_page_box", str(error), document_index=document.index, page=shown_number
            ) from error
        document.put_page(number, CachedPage(prepared=prepared, degraded_reasons=page.degraded_reasons))
        seconds = time.perf_counter() - started
        with self._lock:
            self._work_seconds[document.read_kind.stage] += page.seconds
            self._work_seconds["prepare"] += seconds
        if self._trace is not None:
            of_page = {"ziprerank.document": document.index, "ziprerank.page": number}
            self._trace.stage(
                document.read_kind.stage, began_ns=page.began_ns, ended_ns=page.ended_ns, attributes=of_page
            )
            self._trace.stage_ended("prepare", seconds, of_page)
