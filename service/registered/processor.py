"""Renders and encodes registered documents in the background, one after another, a few pages at a time.

All of its work has a lower priority than live requests. A document counts as processed when its outcome is in the store, so
a process that is killed or stopped in between leaves it to the next process that finds it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

from model import PreparedPage, RankingModel
from service.documents.loader import PageLoader
from service.documents.selection import PageSelection
from service.documents.sources import MemorySource, Source
from service.errors import OverloadedError, ServiceError, UnavailableError
from service.registered.source import content_of
from service.registered.store import DocumentKey, DocumentReplaced, DocumentStore, Failure, Manifest, Outcome

PAGES_AT_ONCE = 4
_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.5  # doubled from attempt to attempt

SubmitBackground = Callable[[Sequence[PreparedPage]], "Future[None]"]
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class DocumentProcessor:
    """Used on the event loop alone."""

    def __init__(
        self,
        store: DocumentStore,
        loader: PageLoader,
        submit_background: SubmitBackground,
        *,
        threads: Executor,
        queue_limit: int,
        pages_at_once: int = PAGES_AT_ONCE,
        on_processed: Callable[[str], None] = lambda state: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """submit_background: puts the features of pages into the feature cache, when the device has time.

        threads: wait for the store. on_processed: called with the end of each processing, one of ready, failed, replaced,
        interrupted.
        """
        self._store = store
        self._loader = loader
        self._submit_background = submit_background
        self._threads = threads
        self._queue_limit = queue_limit
        self._pages_at_once = pages_at_once
        self._on_processed = on_processed
        self._pause = pause
        self._waiting: dict[DocumentKey, None] = {}  # in the order of their arrival
        self._current: DocumentKey | None = None
        self._has_work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting_documents(self) -> int:
        return len(self._waiting)

    def start(self, model: RankingModel) -> None:
        """Begin with the documents added so far."""
        self._task = asyncio.create_task(self._run(model))

    async def close(self) -> None:
        """Stop at once. The next process finds the unfinished documents in the store."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def refuse_when_full(self) -> None:
        """Raises: OverloadedError. Called before a document is stored, because a stored one has to be processed."""
        if len(self._waiting) >= self._queue_limit:
            raise OverloadedError(
                "overloaded",
                f"{len(self._waiting)} documents are waiting to be processed, which is the limit. Try again later.",
                retry_after_seconds=5,
            )

    def add(self, key: DocumentKey) -> None:
        """Process the document's current version, after those in the queue. Adding it again changes nothing."""
        self._waiting.setdefault(key)
        self._has_work.set()

    def resume(self, key: DocumentKey) -> None:
        """Process a document that was found unprocessed, unless it is being processed or the queue is full."""
        if key != self._current and len(self._waiting) < self._queue_limit:
            self.add(key)

    async def _run(self, model: RankingModel) -> None:
        while True:
            while not self._waiting:
                self._has_work.clear()
                await self._has_work.wait()
            self._current = key = next(iter(self._waiting))
            del self._waiting[key]
            await self._process(key, model)
            self._current = None

    async def _process(self, key: DocumentKey, model: RankingModel) -> None:
        """Handle every error here, so that the next document is processed in any case."""
        try:
            state = await self._process_current(key, model)
        except DocumentReplaced:
            state = "replaced"
        except ServiceError as error:
            logger.error("a registered document is left in processing: %s", error)
            state = "interrupted"
        except Exception:
            logger.exception("a registered document is left in processing")
            state = "interrupted"
        self._on_processed(state)

    async def _process_current(self, key: DocumentKey, model: RankingModel) -> str:
        """The state that the document's current version ends in. Raises: DocumentReplaced, ServiceError."""
        document = await self._in_thread(self._store.find, key)
        if document is None:
            raise DocumentReplaced(key.id)
        if document.outcome is None:
            outcome = Outcome(failure=await self._failure_of(key, document.manifest, model))
            await self._in_thread(self._store.finish, key, document.manifest.version, outcome)
            return outcome.state
        return document.state

    async def _failure_of(self, key: DocumentKey, manifest: Manifest, model: RankingModel) -> Failure | None:
        """The document's error; None when all its pages are encoded. Raises: see `_process_current`."""
        try:
            content = content_of(manifest, await self._in_thread(self._store.read, key, manifest))
            for first in range(1, manifest.page_count + 1, self._pages_at_once):
                current = await self._in_thread(self._store.manifest, key)
                if current is None or current.version != manifest.version:
                    raise DocumentReplaced(key.id)
                last = min(first + self._pages_at_once - 1, manifest.page_count)
                pages = PageSelection(ranges=((first, last),))
                source = MemorySource(label=manifest.id, pages=pages, content=content)
                await self._encode_patiently(source, key.tenant, model)
        except (OverloadedError, UnavailableError):
            raise  # the service is busy; the document is not at fault
        except ServiceError as error:
            return Failure(code=error.code, message=error.message, page=error.page)
        return None

    async def _encode_patiently(self, source: Source, tenant: bytes, model: RankingModel) -> None:
        """Render and encode the pages, again after a pause where the service has no room. Raises: the last attempt's error."""
        for attempt in range(_ATTEMPTS):
            try:
                loaded = await self._loader.load([source], model, tenant=tenant, background=True)
                await asyncio.wrap_future(self._submit_background([page.prepared for page in loaded.pages]))
                return
            except (OverloadedError, UnavailableError):
                if attempt == _ATTEMPTS - 1:
                    raise
                await self._pause(_FIRST_PAUSE_SECONDS * 2**attempt)

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
