"""Pages as the model takes them, and how many pages a document has, by the document's content: what was rendered once is not
rendered again.

The least recently used leaves first; what is kept never has more bytes than the limit. Keys carry a scope, so that callers who
must not learn of each other share nothing. Thread-safe. Knows neither documents' bytes nor how pages come about.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from model import PreparedPage
from service.metrics import CacheCounts
from service.raster.page import DocumentOutline

_ENTRY_BYTES = 1024  # what an entry takes beside its pixels, generously


@dataclass(frozen=True, slots=True)
class ContentKey:
    """A document's content, and who may know of it."""

    scope: bytes
    sha256: str  # hex


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPage:
    prepared: PreparedPage
    degraded: bool  # parts of the page could not be drawn


class PageCache:
    def __init__(self, limit_bytes: int) -> None:
        """0 keeps nothing."""
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[ContentKey, int], CachedPage | DocumentOutline] = OrderedDict()
        self._byte_count = 0
        self._hits = self._misses = self._evictions = 0

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    def grow_to(self, limit_bytes: int) -> None:
        """A higher limit, once it is known how much the caches behind this one hold. A lower one changes nothing."""
        self._limit_bytes = max(self._limit_bytes, limit_bytes)

    def page(self, document: ContentKey, number: int) -> CachedPage | None:
        """Page `number` (1-based), if it is known; counted as a hit or a miss."""
        with self._lock:
            entry = self._find((document, number))
            self._hits += entry is not None
            self._misses += entry is None
        assert not isinstance(entry, DocumentOutline), "outlines have no page number"
        return entry

    def outline(self, document: ContentKey) -> DocumentOutline | None:
        with self._lock:
            entry = self._find((document, _OUTLINE))
        assert not isinstance(entry, CachedPage), "pages are numbered from 1"
        return entry

    def put_page(self, document: ContentKey, number: int, page: CachedPage) -> None:
        self._put((document, number), page)

    def put_outline(self, document: ContentKey, outline: DocumentOutline) -> None:
        self._put((document, _OUTLINE), outline)

    def counts(self) -> CacheCounts:
        """Of pages; bytes of everything."""
        with self._lock:
            return CacheCounts(hits=self._hits, misses=self._misses, evictions=self._evictions, bytes=self._byte_count)

    def _find(self, key: "tuple[ContentKey, int]") -> CachedPage | DocumentOutline | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _put(self, key: "tuple[ContentKey, int]", entry: CachedPage | DocumentOutline) -> None:
        size = _size(entry)
        if size > self._limit_bytes:
            return
        with self._lock:
            if replaced := self._entries.pop(key, None):
                self._byte_count -= _size(replaced)
            while self._byte_count + size > self._limit_bytes:
                _, evicted = self._entries.popitem(last=False)
                self._byte_count -= _size(evicted)
                self._evictions += isinstance(evicted, CachedPage)
            self._entries[key] = entry
            self._byte_count += size


_OUTLINE = 0  # in place of a page number


def _size(entry: CachedPage | DocumentOutline) -> int:
    return _ENTRY_BYTES + (entry.prepared.pixels.nbytes if isinstance(entry, CachedPage) else 0)
