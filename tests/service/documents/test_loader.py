"""From sources of pages to pages for the model: order, selection, limits, what is cached and what is rendered."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from model import PageImageError, PreparedPage
from service.documents.loader import LoadedPage, PageLoader
from service.documents.page_cache import PageCache
from service.documents.selection import parse_page_selection
from service.documents.sources import PageSource
from service.errors import (
    DocumentNotFoundError,
    PageOutOfRangeError,
    ServiceError,
    TooLargeError,
    UnusableDocumentError,
)
from service.raster.page import SINGLE_IMAGE, DocumentOutline
from service.raster.request import Kind
from tests.documents import make_encrypted_pdf, make_image, make_pdf, make_pdf_with_truncated_image, make_tiff
from tests.service.raster.pools import Pool, running_pool, until

THREE_PAGES, FIVE_PAGES = make_pdf(3), make_pdf(5)


def prepare(pixels: np.ndarray) -> PreparedPage:
    return PreparedPage(pixels=pixels, rows=1, columns=1, content_hash=hashlib.sha256(pixels).digest())


class Loading:
    """A loader over a real raster pool, and what the two did."""

    def __init__(self, pool: Pool, loader: PageLoader, cache: PageCache) -> None:
        self.pool = pool
        self.loader = loader
        self.cache = cache

    def load(self, *sources: PageSource, scope: bytes = b"", **options: Any) -> list[LoadedPage]:
        return asyncio.run(self.loader.load(lambda: sources, options.pop("prepare", prepare), scope=scope, **options))

    def rendered_by(self, ask: Callable[[], object]) -> list[str]:
        """Stages of the pages that the raster pool makes while `ask` runs."""
        before = len(self.pool.stages)
        ask()
        return self.pool.stages[before:]


@contextmanager
def loading(*, max_pages: int = 100, cache_bytes: int = 1 << 30, **limits: Any) -> Iterator[Loading]:
    cache = PageCache(cache_bytes)
    with running_pool(**limits) as pool, ThreadPoolExecutor(1) as threads:
        yield Loading(pool, PageLoader(pool.rasterizer, cache, threads, max_pages=max_pages), cache)


@pytest.fixture
def loads() -> Iterator[Loading]:
    with loading() as made:
        yield made


def source(
    data: bytes, kind: Kind, *, pages: str | None = None, label: str = "a", outline: DocumentOutline | None = None
) -> PageSource:
    return PageSource(
        label=label,
        sha256=hashlib.sha256(data).hexdigest(),
        kind=kind,
        read=lambda: data,
        pages=parse_page_selection(pages) if pages else None,
        outline=outline,
    )


def pdf(data: bytes, *, pages: str | None = None, **more: Any) -> PageSource:
    return source(data, "pdf", pages=pages, **more)


def image(data: bytes, *, pages: str | None = None, **more: Any) -> PageSource:
    return source(data, "image", pages=pages, **more)


def unreadable(known: PageSource) -> PageSource:
    """The same document, whose bytes must not be asked for."""

    def read() -> bytes:
        raise AssertionError("the bytes are not needed")

    return PageSource(
        label=known.label, sha256=known.sha256, kind=known.kind, read=read, pages=known.pages, outline=known.outline
    )


def shown(pages: Sequence[LoadedPage]) -> list[tuple[int, int | None, str]]:
    return [(page.document_index, page.number, page.label) for page in pages]


# Which pages


def test_pages_come_in_document_and_selection_order(loads: Loading) -> None:
    tiff = make_tiff([(9, 9), (9, 9)])
    pages = loads.load(
        pdf(FIVE_PAGES, pages="3,1-2", label="report"),
        image(make_image(), label="photo"),
        image(tiff, pages="2,1", label="scan"),
        image(make_image(colour="blue"), label="known", outline=SINGLE_IMAGE),
    )
    assert shown(pages) == [
        (0, 3, "report#page=3"),
        (0, 1, "report#page=1"),
        (0, 2, "report#page=2"),
        (1, None, "photo"),
        (2, 2, "scan#page=2"),
        (2, 1, "scan#page=1"),
        (3, None, "known"),
    ]
    darkness = [255 - page.prepared.pixels.mean() for page in pages[:3]]
    assert darkness[1] < darkness[2] < darkness[0]
    assert [page.prepared.pixels[0, 0, 0] for page in pages[4:6]] == [20, 10]
    assert pages[4].document_sha256 == hashlib.sha256(tiff).hexdigest()


def test_no_sources_are_no_pages(loads: Loading) -> None:
    assert loads.load() == []


def test_lost_content_is_flagged_also_when_the_page_comes_again(loads: Loading) -> None:
    damaged = pdf(make_pdf_with_truncated_image())
    assert [loads.load(damaged)[0].degraded for _ in range(2)] == [True, True]


# What is known is not rendered


def test_document_that_comes_again_is_neither_read_nor_opened_nor_rendered_nor_prepared(loads: Loading) -> None:
    documents = [pdf(FIVE_PAGES), image(make_image(), outline=SINGLE_IMAGE)]
    first = loads.load(*documents)
    prepared_again: list[int] = []

    def again() -> None:
        pages = loads.load(*map(unreadable, documents), prepare=lambda pixels: prepared_again.append(1))
        assert [page.prepared for page in pages] == [page.prepared for page in first]
        assert shown(pages) == shown(first)

    assert loads.rendered_by(again) == [] and prepared_again == []
    assert (loads.cache.counts().hits, loads.cache.counts().misses) == (6, 6)


def test_known_pages_are_served_even_while_no_worker_lives(loads: Loading) -> None:
    loads.load(pdf(THREE_PAGES))
    loads.pool.rasterizer.close()
    assert len(loads.load(pdf(THREE_PAGES))) == 3


def test_only_the_missing_pages_of_a_known_document_are_rendered(loads: Loading) -> None:
    loads.load(pdf(FIVE_PAGES, pages="2,4"))
    assert loads.rendered_by(lambda: loads.load(pdf(FIVE_PAGES))) == ["render"] * 3
    assert loads.rendered_by(lambda: loads.load(unreadable(pdf(FIVE_PAGES, pages="5-")))) == []


def test_known_documents_stand_beside_new_ones(loads: Loading) -> None:
    loads.load(pdf(FIVE_PAGES))

    def mixed() -> None:
        pages = loads.load(
            unreadable(pdf(FIVE_PAGES, pages="4")), pdf(THREE_PAGES), unreadable(pdf(FIVE_PAGES, pages="1"))
        )
        assert [(page.document_index, page.number) for page in pages] == [(0, 4), (1, 1), (1, 2), (1, 3), (2, 1)]

    assert loads.rendered_by(mixed) == ["render"] * 3


def test_scopes_share_nothing(loads: Loading) -> None:
    loads.load(pdf(THREE_PAGES), scope=b"one")
    assert loads.rendered_by(lambda: loads.load(pdf(THREE_PAGES), scope=b"another")) == ["render"] * 3
    assert loads.rendered_by(lambda: loads.load(pdf(THREE_PAGES), scope=b"one")) == []


def test_without_a_cache_every_page_is_rendered_again() -> None:
    with loading(cache_bytes=0) as loads:
        for _ in range(2):
            assert loads.rendered_by(lambda: loads.load(pdf(THREE_PAGES))) == ["render"] * 3


def test_pages_that_are_found_stay_although_the_cache_is_too_small_for_the_rest() -> None:
    page_bytes = 1024 * 791 * 3 + 1024
    with loading(cache_bytes=3 * page_bytes) as loads:
        loads.load(pdf(THREE_PAGES, pages="1,2"))
        pages = loads.load(unreadable(pdf(THREE_PAGES, pages="1,2")), pdf(FIVE_PAGES))
        assert len(pages) == 7
        assert loads.cache.counts().bytes <= 3 * page_bytes


def test_outline_in_the_source_saves_the_opening(loads: Loading) -> None:
    known = pdf(FIVE_PAGES, pages="2", outline=DocumentOutline(page_count=5, is_paged=True))
    assert shown(loads.load(known)) == [(0, 2, "a#page=2")]


# What can be wrong


def test_too_many_pages_names_number_and_limit_for_new_and_known_documents() -> None:
    with loading(max_pages=5) as loads:
        for _ in range(2):
            with pytest.raises(TooLargeError, match=r"documents: 6 pages are selected, at most 5") as caught:
                loads.load(pdf(THREE_PAGES), pdf(make_pdf(3, width=400)))
            assert caught.value.code == "too_many_pages"
        assert len(loads.load(pdf(make_pdf(30), pages="1-5"))) == 5


def test_enormous_page_count_is_refused_without_being_expanded(loads: Loading) -> None:
    huge = DocumentOutline(page_count=10_000_000, is_paged=True)
    with pytest.raises(TooLargeError, match="20000000 pages"):
        loads.load(*[unreadable(pdf(THREE_PAGES, outline=huge))] * 2)


@pytest.mark.parametrize(
    "document",
    [
        pdf(make_pdf(2), pages="1,3"),
        image(make_image(), pages="3"),
        image(make_image(), pages="3", outline=SINGLE_IMAGE),
        image(make_tiff([(4, 4)] * 2), pages="3"),
    ],
)
def test_page_beyond_the_end_names_document_and_page_count(document: PageSource, loads: Loading) -> None:
    for _ in range(2):
        with pytest.raises(
            PageOutOfRangeError, match=r"documents\[1\]: page 3 does not exist; .* has [12] page"
        ) as caught:
            loads.load(image(make_image()), document)
        assert (caught.value.document_index, caught.value.param) == (1, "pages")


def test_bad_document_with_the_lowest_index_is_reported(loads: Loading) -> None:
    for _ in range(3):
        with pytest.raises(UnusableDocumentError) as caught:
            loads.load(pdf(THREE_PAGES), pdf(make_encrypted_pdf(password="x")), pdf(b"bad"))
        assert (caught.value.code, caught.value.document_index) == ("encrypted_document", 1)


def test_page_that_the_model_does_not_take_is_named(loads: Loading) -> None:
    def refuse(pixels: np.ndarray) -> PreparedPage:
        raise PageImageError("The page is 724 x 1 px.")

    with pytest.raises(UnusableDocumentError, match=r"documents\[1\]: The page is 724 x 1 px.") as caught:
        loads.load(image(make_image()), pdf(THREE_PAGES, pages="2"), prepare=_all_but(1, refuse))
    assert (caught.value.code, caught.value.document_index, caught.value.page) == ("bad_page_box", 1, 2)


def _all_but(first: int, then: Callable[[np.ndarray], PreparedPage]) -> Callable[[np.ndarray], PreparedPage]:
    seen: list[int] = []

    def work(pixels: np.ndarray) -> PreparedPage:
        seen.append(1)
        return prepare(pixels) if len(seen) <= first else then(pixels)

    return work


def test_error_of_reading_is_told_with_its_document(loads: Loading) -> None:
    def read() -> bytes:
        raise DocumentNotFoundError("document_not_found", "gone")

    gone = PageSource(label="b", sha256="00", kind="pdf", read=read, pages=None)
    with pytest.raises(DocumentNotFoundError) as caught:
        loads.load(pdf(THREE_PAGES), gone)
    assert caught.value.document_index == 1


def test_failed_document_leaves_its_good_pages_known(loads: Loading) -> None:
    with pytest.raises(ServiceError):
        loads.load(image(make_image(), outline=SINGLE_IMAGE), image(b"\x89PNG\r\n\x1a\nbad", outline=SINGLE_IMAGE))
    assert loads.rendered_by(lambda: loads.load(image(make_image(), outline=SINGLE_IMAGE))) == []


# How it runs


def test_pages_are_prepared_while_later_ones_are_rendered(loads: Loading) -> None:
    prepared_at: list[int] = []

    def note(pixels: np.ndarray) -> PreparedPage:
        prepared_at.append(len(loads.pool.stages))
        return prepare(pixels)

    loads.load(pdf(FIVE_PAGES), prepare=note)
    assert prepared_at == [1, 2, 3, 4, 5]


def test_cancelled_request_stops_before_the_next_page(loads: Loading) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(loads.loader.load(lambda: [pdf(make_pdf(100))], prepare, scope=b""))
        await until(lambda: len(loads.pool.stages) > 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: loads.pool.rasterizer._schedule.running_tasks == 0)
        assert len(loads.pool.stages) < 100

    asyncio.run(scenario())


def test_stages_are_told_where_there_was_such_work_and_share_the_wall_time(loads: Loading) -> None:
    told: dict[str, float] = {}
    loads.load(pdf(THREE_PAGES), image(make_image()), observe=told.__setitem__)
    assert set(told) == {"render", "decode", "prepare"} and min(told.values()) > 0
    told.clear()
    loads.load(pdf(THREE_PAGES), observe=told.__setitem__)
    assert told == {}


def test_background_request_yields_to_a_live_one(loads: Loading) -> None:
    async def scenario() -> list[str]:
        order: list[str] = []

        async def load(name: str, data: bytes, *, background: bool) -> None:
            await loads.loader.load(lambda: [pdf(data)], prepare, scope=b"", background=background)
            order.append(name)

        background = asyncio.create_task(load("background", make_pdf(80), background=True))
        await until(lambda: len(loads.pool.stages) > 2)
        await asyncio.gather(load("live", make_pdf(90), background=False), background)
        return order

    assert asyncio.run(scenario()) == ["live", "background"]


def test_bytes_are_read_in_a_thread_of_the_loader(loads: Loading) -> None:
    threads: list[threading.Thread] = []

    def read() -> bytes:
        threads.append(threading.current_thread())
        return THREE_PAGES

    loads.load(PageSource(label="a", sha256="00", kind="pdf", read=read, pages=None))
    assert threads != [threading.main_thread()] and len(threads) == 1


def test_outline_is_found_by_opening_or_taken_from_the_source(loads: Loading) -> None:
    def outline(document: PageSource) -> DocumentOutline:
        return asyncio.run(loads.loader.outline(document))

    assert outline(pdf(FIVE_PAGES)) == DocumentOutline(page_count=5, is_paged=True)
    assert outline(image(make_image())) == SINGLE_IMAGE
    known = DocumentOutline(page_count=77, is_paged=True)
    assert outline(unreadable(pdf(FIVE_PAGES, outline=known))) == known
    with pytest.raises(UnusableDocumentError):
        outline(pdf(b"%PDF-1.7 bad"))
    assert loads.pool.stages == []
