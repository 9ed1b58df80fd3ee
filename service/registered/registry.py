"""Registered documents: put, found, listed, deleted, named in a rerank request, and processed in the background."""

import asyncio
import hashlib
import heapq
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from model import RankingModel
from service.documents.loader import PageLoader
from service.documents.selection import PageSelection
from service.documents.sources import Content, MemorySource, require_kind
from service.errors import ServiceError, TooLargeError, UnusableDocumentError
from service.registered.processor import DocumentProcessor
from service.registered.source import RegisteredSource, not_found, require_manifest
from service.registered.store import DocumentKey, DocumentStore, Listing, Manifest, StoredDocument, new_version

_LONGEST_SLEEP_SECONDS = 60.0

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class DocumentRegistry:
    """Used on the event loop, but for `find_source`. `threads` wait for the store. Tenants see their own documents only."""

    def __init__(
        self,
        store: DocumentStore,
        processor: DocumentProcessor,
        loader: PageLoader,
        *,
        threads: Executor,
        max_file_bytes: int,
        max_document_pages: int,
    ) -> None:
        self._store = store
        self._processor = processor
        self._loader = loader
        self._threads = threads
        self._max_file_bytes = max_file_bytes
        self._max_document_pages = max_document_pages
        self._resuming: asyncio.Task[None] | None = None
        self._expiries: list[
            tuple[float, str, DocumentKey]
        ] = []  # a heap: when, in seconds since 1970, the id, and the key
        self._has_new_expiry = asyncio.Event()
        self._expiring: asyncio.Task[None] | None = None

    def start(self, model: RankingModel) -> None:
        """Begin with the background work, first with the documents that an earlier process left unfinished."""
        self._processor.start(model)
        self._resuming = asyncio.create_task(self._resume())
        self._expiring = asyncio.create_task(self._expire())

    async def put(self, key: DocumentKey, data: bytes | bytearray, *, ttl_seconds: int | None = None) -> StoredDocument:
        """Store the document's bytes, in place of earlier ones, and queue them for processing.

        ttl_seconds: after which the document is deleted; None: it stays.
        Raises: TooLargeError, UnsupportedMediaTypeError, UnusableDocumentError about the bytes; OverloadedError,
        UnavailableError.
        """
        self._processor.refuse_when_full()
        manifest = await self._examine(key, data)
        if ttl_seconds is not None:
            manifest = replace(manifest, expires=manifest.created + ttl_seconds)
        await self._in_thread(self._store.put, key, manifest, data)
        if manifest.expires is not None:
            self._note_expiry(manifest.expires, key)
        self._processor.add(key)
        return StoredDocument(manifest=manifest, outcome=None)

    async def get(self, key: DocumentKey) -> StoredDocument:
        """Raises: DocumentNotFoundError, InternalError, UnavailableError."""
        document = await self._in_thread(self._store.find, key)
        if document is None:
            raise not_found(key)
        if document.outcome is None:
            self._processor.resume(key)  # the process that worked on it may have been killed
        return document

    async def list(self, tenant: bytes, *, after: str, limit: int) -> Listing:
        """Raises: UnavailableError."""
        return await self._in_thread(lambda: self._store.list(tenant, after=after, limit=limit))

    async def delete(self, key: DocumentKey) -> None:
        """Raises: DocumentNotFoundError, UnavailableError."""
        if not await self._in_thread(self._store.delete, key):
            raise not_found(key)

    def find_source(self, id: str, pages: PageSelection | None, *, tenant: bytes) -> RegisteredSource:
        """The current version; its manifest is read from the store. Blocks: call it in a thread.

        Raises: DocumentNotFoundError, InternalError, UnavailableError.
        """
        key = DocumentKey(tenant=tenant, id=id)
        return RegisteredSource(store=self._store, key=key, manifest=require_manifest(self._store, key), pages=pages)

    async def close(self) -> None:
        """Stop the background work."""
        for task in (self._resuming, self._expiring):
            if task is not None:
                task.cancel()
        await self._processor.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _examine(self, key: DocumentKey, data: bytes | bytearray) -> Manifest:
        if len(data) > self._max_file_bytes:
            message = f"The document has {len(data)} bytes and the limit is {self._max_file_bytes}. Split it."
            raise TooLargeError("file_too_large", message)
        if not data:
            raise UnusableDocumentError("corrupt_document", "The document is empty.")
        kind = require_kind(data)
        sha256 = await self._in_thread(lambda: hashlib.sha256(data).hexdigest())
        content = Content(data=data, sha256=sha256, kind=kind)
        outline = await self._loader.outline(MemorySource(label=key.id, pages=None, content=content))
        if outline.page_count > self._max_document_pages:
            message = (
                f"The document has {outline.page_count} pages and the limit is {self._max_document_pages}. Split it."
            )
            raise TooLargeError("too_many_pages", message)
        return Manifest(
            id=key.id,
            version=new_version(),
            sha256=sha256,
            kind=kind,
            bytes=len(data),
            page_count=outline.page_count,
            is_paged=outline.is_paged,
            created=int(time.time()),
        )

    async def _resume(self) -> None:
        try:
            await self._in_thread(self._store.sweep)
            for key in await self._in_thread(self._store.unfinished):
                self._processor.resume(key)
            for expires, key in await self._in_thread(self._store.expiries):
                self._note_expiry(expires, key)
        except ServiceError as error:
            logger.error("could not scan the document store: %s", error)

    def _note_expiry(self, expires: float, key: DocumentKey) -> None:
        heapq.heappush(self._expiries, (expires, key.folder, key))
        self._has_new_expiry.set()

    async def _expire(self) -> None:
        """Delete documents whose time is over. No request finds them meanwhile: the store sees to that."""
        while True:
            seconds = self._expiries[0][0] - time.time() if self._expiries else None
            if seconds is None or seconds > 0:
                self._has_new_expiry.clear()
                with suppress(TimeoutError):
                    # In steps, because the clock of the day may be set.
                    await asyncio.wait_for(
                        self._has_new_expiry.wait(), None if seconds is None else min(seconds, _LONGEST_SLEEP_SECONDS)
                    )
                continue
            _, _, key = heapq.heappop(self._expiries)
            try:
                await self._in_thread(self._store.delete_expired, key)
            except ServiceError as error:
                logger.error("an expired document is still in the store: %s", error)
                heapq.heappush(self._expiries, (time.time() + _LONGEST_SLEEP_SECONDS, key.folder, key))

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
