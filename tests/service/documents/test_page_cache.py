"""What the cache of rendered pages keeps, forgets and counts."""

import threading

import numpy as np

from model import PreparedPage
from service.documents.page_cache import CacheCounts, CachedPage, ContentKey, PageCache
from service.raster.page import DocumentOutline

REPORT = ContentKey(b"", "aa")
PAGE_BYTES = 32 * 32 * 3
ENTRY_BYTES = 1024


def page(shade: int = 0, *, size: int = 32) -> CachedPage:
    pixels = np.full((size, size, 3), shade, np.uint8)
    prepared = PreparedPage(pixels=pixels, rows=size // 32, columns=size // 32, content_hash=bytes([shade]))
    return CachedPage(prepared=prepared, degraded_reasons=())


def room_for(pages: int) -> int:
    return pages * (PAGE_BYTES + ENTRY_BYTES)


def test_page_is_found_again_by_tenant_document_and_number() -> None:
    cache = PageCache(room_for(10))
    cache.put_page(REPORT, 3, kept := page())
    assert cache.page(REPORT, 3) is kept
    assert cache.page(REPORT, 2) is None
    assert cache.page(ContentKey(b"", "bb"), 3) is None
    assert cache.page(ContentKey(b"another caller", "aa"), 3) is None


def test_outline_is_found_again_and_is_no_page() -> None:
    cache = PageCache(room_for(10))
    cache.put_outline(REPORT, DocumentOutline(page_count=7, is_paged=True))
    assert cache.outline(REPORT) == DocumentOutline(page_count=7, is_paged=True)
    assert cache.outline(ContentKey(b"x", "aa")) is None
    assert cache.page(REPORT, 1) is None


def test_least_recently_used_page_leaves_first() -> None:
    cache = PageCache(room_for(3))
    for number in (1, 2, 3):
        cache.put_page(REPORT, number, page())
    cache.page(REPORT, 1)
    cache.put_page(REPORT, 4, page())
    assert [cache.page(REPORT, number) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]


def test_bytes_never_exceed_the_limit_over_thousands_of_pages() -> None:
    limit = room_for(7) + 500
    cache = PageCache(limit)
    for number in range(5_000):
        cache.put_page(REPORT, number + 1, page(number % 256, size=32 * (1 + number % 2)))
        assert 0 < cache.counts().bytes <= limit
    assert cache.counts().evictions > 4_990


def test_page_that_alone_is_too_large_is_not_kept_and_evicts_nothing() -> None:
    cache = PageCache(room_for(1))
    cache.put_page(REPORT, 1, page())
    cache.put_page(REPORT, 2, page(size=64))
    assert cache.page(REPORT, 1) is not None and cache.page(REPORT, 2) is None


def test_replaced_page_is_counted_once() -> None:
    cache = PageCache(room_for(2))
    cache.put_page(REPORT, 1, page(1))
    cache.put_page(REPORT, 1, replacing := page(2))
    assert cache.page(REPORT, 1) is replacing
    assert cache.counts().bytes == room_for(1)


def test_limit_of_nothing_keeps_nothing() -> None:
    cache = PageCache(0)
    cache.put_page(REPORT, 1, page())
    cache.put_outline(REPORT, DocumentOutline(page_count=1, is_paged=True))
    assert cache.page(REPORT, 1) is None and cache.outline(REPORT) is None
    assert cache.counts() == CacheCounts(hits=0, misses=1, evictions=0, bytes=0)


def test_hits_misses_and_evictions_are_those_of_pages() -> None:
    cache = PageCache(room_for(2))
    cache.put_outline(REPORT, DocumentOutline(page_count=9, is_paged=True))
    cache.outline(REPORT)
    for number in (1, 2, 3):
        cache.page(REPORT, number)
        cache.put_page(REPORT, number, page())
    cache.page(REPORT, 3)
    assert cache.counts() == CacheCounts(hits=1, misses=3, evictions=1, bytes=room_for(2))


def test_threads_share_it() -> None:
    cache = PageCache(limit := room_for(5))

    def use(first: int) -> None:
        for number in range(first, first + 500):
            cache.put_page(REPORT, number, page())
            cache.page(REPORT, number)

    threads = [threading.Thread(target=use, args=(1 + 300 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = cache.counts()
    assert counts.bytes <= limit and counts.hits + counts.misses == 2_000
    kept = sum(cache.page(REPORT, number) is not None for number in range(1, 2_000))
    assert kept * room_for(1) == counts.bytes
