"""Registered documents: put, found, listed, deleted, named in a rerank request, and processed in the background.

Checks what a caller puts before anything is stored. Knows neither HTTP nor the model.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from model import RankingModel
from service.documents.loader import PageLoader
from service.documents.selection import PageSelection
from service.documents.sources import PageSource, kind_by_magic
from service.errors import (
    DocumentNotFoundError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaTypeError,
    UnusableDocumentError,
)
from service.raster.page import DocumentOutline
from service.registered.processor import DocumentProcessor, about_its_only_document, source_of
from service.registered.store import DocumentKey, DocumentStore, Listing, Manifest, StoredDocument, new_version

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class DocumentRegistry:
    """`threads` wait for the store. A caller sees the documents of its own cache scope only."""

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

    def start(self, preparer: RankingModel) -> None:
        """Begin with the background work, first with what a kill left behind."""
        self._processor.start(preparer)
        self._resuming = asyncio.create_task(self._resume())

    async def put(self, key: DocumentKey, data: bytes | bytearray) -> StoredDocument:
        """Store the document's bytes, in place of earlier ones, and have them processed.

        Raises: TooLargeError, UnsupportedMediaTypeError, UnusableDocumentError about the bytes; OverloadedError,
        UnavailableError.
        """
        self._processor.refuse_when_full()
        manifest = await self._examine(key, data)
        await self._in_thread(self._store.put, key, manifest, data)
        self._processor.add(key)
        return StoredDocument(manifest=manifest, outcome=None)

    async def get(self, key: DocumentKey) -> StoredDocument:
        """Raises: DocumentNotFoundError, InternalError, UnavailableError."""
        document = await self._in_thread(self._store.find, key)
        if document is None:
            raise _not_found(key)
        if document.outcome is None:
            self._processor.resume(key)  # whoever worked on it may have been killed
        return document

    async def list(self, scope: bytes, *, after: str, limit: int) -> Listing:
        """Raises: UnavailableError."""
        return await self._in_thread(lambda: self._store.list(scope, after=after, limit=limit))

    async def delete(self, key: DocumentKey) -> None:
        """Raises: DocumentNotFoundError, UnavailableError."""
        if not await self._in_thread(self._store.delete, key):
            raise _not_found(key)

    def source_of(self, key: DocumentKey, pages: PageSelection | None) -> PageSource:
        """Pages to load, at the price of a small file. Blocks. The source's `read` raises DocumentReplaced or InternalError.

        Raises: DocumentNotFoundError, InternalError, UnavailableError.
        """
        manifest = self._store.manifest(key)
        if manifest is None:
            raise _not_found(key)
        return source_of(manifest, pages, read=lambda: self._store.read(key, manifest), is_stored=True)

    async def close(self) -> None:
        """Stop what goes on in the background."""
        if self._resuming is not None:
            self._resuming.cancel()
        await self._processor.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _examine(self, key: DocumentKey, data: bytes | bytearray) -> Manifest:
        if len(data) > self._max_file_bytes:
            message = f"The document has {len(data)} bytes and the limit is {self._max_file_bytes}. Put it in parts."
            raise TooLargeError("file_too_large", message)
        if not data:
            raise UnusableDocumentError("corrupt_document", "The document is empty.")
        kind = kind_by_magic(data)
        if kind is None:
            message = "The document is neither a PDF nor a PNG, JPEG, WebP, TIFF, GIF or BMP image."
            raise UnsupportedMediaTypeError("unsupported_media_type", message)
        sha256 = await self._in_thread(lambda: hashlib.sha256(data).hexdigest())
        source = PageSource(label=key.id, sha256=sha256, kind=kind, read=lambda: data, pages=None)
        outline = await self._outline(source)
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

    async def _outline(self, source: PageSource) -> DocumentOutline:
        try:
            outline = await self._loader.outline(source)
        except ServiceError as error:
            error.message, error.document_index = about_its_only_document(error), None
            raise
        if outline.page_count > self._max_document_pages:
            message = (
                f"The document has {outline.page_count} pages and the limit is {self._max_document_pages}. Split it."
            )
            raise TooLargeError("too_many_pages", message)
        return outline

    async def _resume(self) -> None:
        try:
            await self._in_thread(self._store.sweep)
            for key in await self._in_thread(self._store.unfinished):
                self._processor.resume(key)
        except ServiceError as error:
            logger.error("the document store was not looked through: %s", error)

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _not_found(key: DocumentKey) -> DocumentNotFoundError:
    message = f"There is no registered document {key.id!r}. Put it first, or send the document itself."
    return DocumentNotFoundError("document_not_found", message, param="id")
