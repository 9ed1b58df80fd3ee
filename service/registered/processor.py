"""Renders and encodes registered documents in the background, one after another, a few pages at a time.

Everything it asks for has a lower priority than live requests. The store is the memory: a document counts as processed when
its outcome is noted there, so a process that is killed or stopped in between leaves it to whoever meets it next. Knows no HTTP.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np

from model import PageImage, PreparedPage, RankingModel
from service.documents.loader import PageLoader
from service.documents.selection import PageSelection
from service.documents.sources import PageSource
from service.errors import OverloadedError, ServiceError, UnavailableError
from service.raster.page import DocumentOutline
from service.registered.store import DocumentKey, DocumentReplaced, DocumentStore, Failure, Manifest, Outcome

PAGES_AT_ONCE = 4
_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.5  # doubled from attempt to attempt

Encode = Callable[[Sequence[PreparedPage]], "Future[None]"]
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class DocumentProcessor:
    """Used on the event loop alone. `encode` puts pages into the feature cache; `threads` wait for the store; `on_processed`
    is told how each processing ended: ready, failed, replaced or interrupted."""

    def __init__(
        self,
        store: DocumentStore,
        loader: PageLoader,
        encode: Encode,
        *,
        threads: Executor,
        queue_limit: int,
        pages_at_once: int = PAGES_AT_ONCE,
        on_processed: Callable[[str], None] = lambda state: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._loader = loader
        self._encode = encode
        self._threads = threads
        self._queue_limit = queue_limit
        self._pages_at_once = pages_at_once
        self._on_processed = on_processed
        self._pause = pause
        self._waiting: dict[DocumentKey, None] = {}  # in the order in which they came
        self._current: DocumentKey | None = None
        self._has_work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting_documents(self) -> int:
        return len(self._waiting)

    def start(self, preparer: RankingModel) -> None:
        """Begin; what was added before is done first."""
        self._task = asyncio.create_task(self._run(preparer))

    async def close(self) -> None:
        """Stop at once. What is not finished is met again by the next process."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def refuse_when_full(self) -> None:
        """Raises: OverloadedError, so that nothing is stored that then waits for ever."""
        if len(self._waiting) >= self._queue_limit:
            raise OverloadedError(
                "overloaded",
                f"{len(self._waiting)} documents are waiting to be processed, which is the limit. Try again later.",
                retry_after_seconds=5,
            )

    def add(self, key: DocumentKey) -> None:
        """Process the document's current version, after those that wait. It is no fault to add it twice."""
        self._waiting.setdefault(key)
        self._has_work.set()

    def resume(self, key: DocumentKey) -> None:
        """Process a document that was found unprocessed, if it is not in hand already and there is room."""
        if key != self._current and len(self._waiting) < self._queue_limit:
            self.add(key)

    async def _run(self, preparer: RankingModel) -> None:
        while True:
            self._current = await self._next()
            await self._process(self._current, preparer)
            self._current = None

    async def _next(self) -> DocumentKey:
        while not self._waiting:
            self._has_work.clear()
            await self._has_work.wait()
        key = next(iter(self._waiting))
        del self._waiting[key]
        return key

    async def _process(self, key: DocumentKey, preparer: RankingModel) -> None:
        """Whatever happens to one document, the next one has its turn."""
        try:
            state = await self._process_current(key, preparer)
        except DocumentReplaced:
            state = "replaced"
        except ServiceError as error:
            logger.error("a registered document is left in processing: %s", error)
            state = "interrupted"
        except Exception:
            logger.exception("a registered document is left in processing")
            state = "interrupted"
        self._on_processed(state)

    async def _process_current(self, key: DocumentKey, preparer: RankingModel) -> str:
        """The state that the document's current version ends in. Raises: DocumentReplaced, ServiceError."""
        document = await self._in_thread(self._store.find, key)
        if document is None:
            raise DocumentReplaced(key.id)
        if document.outcome is None:
            outcome = Outcome(failure=await self._failure_of(key, document.manifest, preparer))
            await self._in_thread(self._store.finish, key, document.manifest.version, outcome)
            return outcome.state
        return document.state

    async def _failure_of(self, key: DocumentKey, manifest: Manifest, preparer: RankingModel) -> Failure | None:
        """What is wrong with the document; None when all its pages are encoded. Raises: see `_process_current`."""
        try:
            data = await self._in_thread(self._store.read, key, manifest)
            for first in range(1, manifest.page_count + 1, self._pages_at_once):
                await self._require_current(key, manifest)
                last = min(first + self._pages_at_once - 1, manifest.page_count)
                source = source_of(manifest, PageSelection(ranges=((first, last),)), read=lambda: data)
                await self._patiently(partial(self._encode_pages, source, key.scope, preparer))
        except (OverloadedError, UnavailableError):
            raise  # no fault of the document
        except ServiceError as error:
            return Failure(code=error.code, message=about_its_only_document(error), page=error.page)
        return None

    async def _require_current(self, key: DocumentKey, manifest: Manifest) -> None:
        current = await self._in_thread(self._store.manifest, key)
        if current is None or current.version != manifest.version:
            raise DocumentReplaced(key.id)

    async def _encode_pages(self, source: PageSource, scope: bytes, preparer: RankingModel) -> None:
        def prepare(pixels: np.ndarray) -> PreparedPage:
            return preparer.prepare_page(PageImage(pixels=pixels), tenant=scope)

        pages = await self._loader.load(lambda: [source], prepare, scope=scope, background=True)
        await asyncio.wrap_future(self._encode([page.prepared for page in pages]))

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, again after a pause where the service has no room for it. Raises: what the last attempt raises."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return await work()
            except (OverloadedError, UnavailableError):
                await self._pause(_FIRST_PAUSE_SECONDS * 2**attempt)
        await work()

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def source_of(
    manifest: Manifest, pages: PageSelection | None, *, read: Callable[[], bytes], is_stored: bool = False
) -> PageSource:
    """A version's pages as something to load."""
    return PageSource(
        label=manifest.id,
        sha256=manifest.sha256,
        kind=manifest.kind,
        read=read,
        pages=pages,
        outline=DocumentOutline(page_count=manifest.page_count, is_paged=manifest.is_paged),
        is_stored=is_stored,
    )


def about_its_only_document(error: ServiceError) -> str:
    """The message without the document's place in a list: here there is one."""
    return error.message.removeprefix("documents[0]").lstrip(",: ")
