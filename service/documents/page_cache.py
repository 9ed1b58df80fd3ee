"""Prepared pages, and outlines of documents, by the document's content: a page that was rendered once is not rendered again.

The least recently used entry leaves first, and the entries never have more bytes than the limit. Keys carry the tenant, so
that tenants share nothing.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from model import PreparedPage
from service.degraded_reason import DegradedReason
from service.raster.page import DocumentOutline

_ENTRY_BYTES = 1024  # of an entry beside its pixels, generously


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounts:
    """The work of a cache since the start, and its size now."""

    hits: int
    misses: int
    evictions: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ContentKey:
    """A document's content, within a tenant."""

    tenant: bytes
    sha256: str  # hex
    is_text: bool = False  # the bytes are drawn as a text, even those of a PDF


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPage:
    """A page as the model takes it."""

    prepared: PreparedPage
    degraded_reasons: tuple[DegradedReason, ...]  # kinds of content that are missing from the page


@dataclass(frozen=True, slots=True)
class _EntryKey:
    document: ContentKey
    number: int | None  # of the page, 1-based; None: the entry holds the outline


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Either a page or an outline: both are in one order of use."""

    page: CachedPage | None = None
    outline: DocumentOutline | None = None

    @property
    def byte_count(self) -> int:
        return _ENTRY_BYTES + (0 if self.page is None else self.page.prepared.pixels.nbytes)


class PageCache:
    """Thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        """limit_bytes: 0 keeps nothing."""
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[_EntryKey, _Entry] = OrderedDict()  # the least recently used first
        self._byte_count = 0
        self._hits = self._misses = self._evictions = 0

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    def grow_to(self, limit_bytes: int) -> None:
        """Raise the limit, once the size of the caches behind this one is known. A lower limit changes nothing."""
        self._limit_bytes = max(self._limit_bytes, limit_bytes)

    def page(self, document: ContentKey, number: int) -> CachedPage | None:
        """Page `number` (1-based), if it is in the cache; counted as a hit or a miss."""
        with self._lock:
            entry = self._find(_EntryKey(document, number))
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            return entry.page

    def outline(self, document: ContentKey) -> DocumentOutline | None:
        with self._lock:
            entry = self._find(_EntryKey(document, None))
            return None if entry is None else entry.outline

    def put_page(self, document: ContentKey, number: int, page: CachedPage) -> None:
        """Nothing happens where the page alone is larger than the limit."""
        self._put(_EntryKey(document, number), _Entry(page=page))

    def put_outline(self, document: ContentKey, outline: DocumentOutline) -> None:
        self._put(_EntryKey(document, None), _Entry(outline=outline))

    def counts(self) -> CacheCounts:
        """Hits, misses and evictions of pages; bytes of pages and outlines."""
        with self._lock:
            return CacheCounts(hits=self._hits, misses=self._misses, evictions=self._evictions, bytes=self._byte_count)

    def _find(self, key: _EntryKey) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _put(self, key: _EntryKey, entry: _Entry) -> None:
        if entry.byte_count > self._limit_bytes:
            return
        with self._lock:
            if replaced := self._entries.pop(key, None):
                self._byte_count -= replaced.byte_count
            while self._byte_count + entry.byte_count > self._limit_bytes:
                _, evicted = self._entries.popitem(last=False)
                self._byte_count -= evicted.byte_count
                if evicted.page is not None:
                    self._evictions += 1
            self._entries[key] = entry
            self._byte_count += entry.byte_count
