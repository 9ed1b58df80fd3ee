"""From sources of pages to pages for the model: order, selection, limits, and which pages are cached or rendered."""

import asyncio
import hashlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from model import PageImage, PageImageError, PreparedPage, RankingModel, TextPageFormat
from service.documents.loaded import ListedPage, Loaded, LoadedPage
from service.documents.loader import PageLoader
from service.documents.page_cache import PageCache
from service.documents.selection import PageSelection, parse_page_selection
from service.documents.sources import Content, MemorySource, Source
from service.errors import (
    DocumentNotFoundError,
    InternalError,
    PageOutOfRangeError,
    ServiceError,
    TooLargeError,
    UnavailableError,
    UnusableDocumentError,
)
from service.raster.page import SINGLE_PAGE_OUTLINE, DocumentOutline, Kind
from service.raster.text_file import outline_of_text
from tests.documents import (
    make_encrypted_pdf,
    make_image,
    make_pdf,
    make_pdf_with_truncated_image,
    make_tiff,
    make_torn_pdf,
)
from tests.patience import PATIENCE_SECONDS, TICK_SECONDS, until
from tests.service.raster.pools import Pool, running_pool

THREE_PAGES, FIVE_PAGES = make_pdf(3), make_pdf(5)


class Preparer:
    """Leaves pages as they are, and remembers its calls."""

    text_page = TextPageFormat()

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, str]] = []  # tenant and thread of each

    def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
        self.calls.append((tenant, threading.current_thread().name))
        content_hash = hashlib.sha256(page.pixels.tobytes()).digest()
        return PreparedPage(pixels=page.pixels, rows=1, columns=1, content_hash=content_hash)


class PickyPreparer(Preparer):
    """Refuses pages of these widths."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.widths = widths

    def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
        if page.pixels.shape[1] in self.widths:
            raise PageImageError(f"The page is {page.pixels.shape[1]} px wide.")
        return super().prepare_page(page, tenant=tenant)


def model_of(preparer: Preparer) -> RankingModel:
    """The preparer in place of a model, of which a loader uses `prepare_page` alone."""
    return cast(RankingModel, preparer)


class Loading:
    """A loader over a real raster pool, and the traces that the two leave."""

    def __init__(self, pool: Pool, loader: PageLoader, cache: PageCache) -> None:
        self.pool = pool
        self.loader = loader
        self.cache = cache

    def load(self, *sources: Source | ServiceError, **options: Any) -> tuple[LoadedPage, ...]:
        return self.load_all(*sources, **options).pages

    def load_all(
        self, *sources: Source | ServiceError, tenant: bytes = b"", preparer: Preparer | None = None, **options: Any
    ) -> Loaded:
        return asyncio.run(self.loader.load(sources, model_of(preparer or Preparer()), tenant=tenant, **options))

    def rendered_by(self, ask: Callable[[], object]) -> list[str]:
        """Stages of the pages that the raster pool makes while `ask` runs."""
        before = len(self.pool.stages)
        ask()
        return self.pool.stages[before:]


@contextmanager
def loading(*, max_pages: int = 100, cache_bytes: int = 1 << 30, **limits: Any) -> Iterator[Loading]:
    cache = PageCache(cache_bytes)
    with running_pool(**limits) as pool, ThreadPoolExecutor(2, thread_name_prefix="prepare") as threads:
        yield Loading(pool, PageLoader(pool.rasterizer, cache, threads, max_pages=max_pages), cache)


@pytest.fixture
def loads() -> Iterator[Loading]:
    with loading() as made:
        yield made


def content(data: bytes, kind: Kind, outline: DocumentOutline | None = None) -> Content:
    return Content(data=data, sha256=hashlib.sha256(data).hexdigest(), kind=kind, outline=outline)


def pdf(
    data: bytes, *, pages: str | None = None, label: str = "a", outline: DocumentOutline | None = None
) -> MemorySource:
    return MemorySource(label=label, pages=selection(pages), content=content(data, Kind.PDF, outline))


def image(
    data: bytes, *, pages: str | None = None, label: str = "a", outline: DocumentOutline | None = None
) -> MemorySource:
    return MemorySource(label=label, pages=selection(pages), content=content(data, Kind.IMAGE, outline))


def text(words: str, *, label: str = "a") -> MemorySource:
    data = words.encode()
    return MemorySource(label=label, pages=None, content=content(data, Kind.TEXT, outline_of_text(words)))


def selection(pages: str | None) -> PageSelection | None:
    return parse_page_selection(pages) if pages else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSource:
    """A document elsewhere: its facts may be unknown before it is read, or prove outdated."""

    reading: Callable[[], Content]
    label: str = "a"
    pages: PageSelection | None = None
    sha256: str | None = None
    kind: Kind | None = None
    outline: DocumentOutline | None = None
    is_in_memory: bool = False

    def read(self) -> Content:
        return self.reading()


def unreadable(known: MemorySource) -> StoredSource:
    """The same document, whose bytes must not be asked for."""

    def fail() -> Content:
        raise AssertionError("the bytes are not needed")

    return StoredSource(
        reading=fail,
        label=known.label,
        pages=known.pages,
        sha256=known.sha256,
        kind=known.kind,
        outline=known.outline,
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
        image(make_image(colour="blue"), label="known", outline=SINGLE_PAGE_OUTLINE),
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
    assert loads.load() == ()


def test_lost_content_is_flagged_also_when_the_page_comes_again(loads: Loading) -> None:
    damaged = pdf(make_pdf_with_truncated_image())
    assert [loads.load(damaged)[0].degraded_reasons for _ in range(2)] == [("image",), ("image",)]


def test_short_text_is_a_page_without_a_number_and_a_long_one_has_pages(loads: Loading) -> None:
    pages = loads.load(text("harbour", label="first"), text("harbour mirror " * 3_000, label="second"))
    assert shown(pages)[:3] == [(0, None, "first"), (1, 1, "second#page=1"), (1, 2, "second#page=2")]
    assert pages[0].prepared.pixels.shape == (280, 280, 3)
    assert pages[0].document_sha256 == hashlib.sha256(b"harbour").hexdigest()


def test_text_with_characters_that_no_font_has_is_degraded(loads: Loading) -> None:
    assert [page.degraded_reasons for page in loads.load(text("harbour"), text("harbour \U000f1234"))] == [
        (),
        ("characters",),
    ]


# What is known is not rendered


def test_text_that_comes_again_is_not_drawn_again(loads: Loading) -> None:
    documents = [text("harbour"), text("harbour mirror " * 3_000)]
    count = len(loads.load(*documents))
    assert count > 2
    assert loads.rendered_by(lambda: loads.load(*map(unreadable, documents))) == []


def test_text_and_file_of_the_same_bytes_share_no_page(loads: Loading) -> None:
    data = THREE_PAGES.decode("ascii", "ignore").encode()
    as_text, as_pdf = (
        MemorySource(label="a", pages=None, content=content(data, kind)) for kind in (Kind.TEXT, Kind.PDF)
    )

    def drawn(source: Source) -> list[bytes]:
        return [page.prepared.content_hash for page in loads.load(source)]

    first = drawn(as_text)
    assert len(drawn(as_pdf)) == 3 and not set(drawn(as_pdf)) & set(first)
    assert loads.rendered_by(lambda: first == drawn(as_text) or pytest.fail("another page")) == []


def test_document_that_comes_again_is_neither_read_nor_opened_nor_rendered_nor_prepared(loads: Loading) -> None:
    documents = [pdf(FIVE_PAGES), image(make_image(), outline=SINGLE_PAGE_OUTLINE)]
    first = loads.load(*documents)
    preparer = Preparer()

    def again() -> None:
        pages = loads.load(*map(unreadable, documents), preparer=preparer)
        assert [page.prepared for page in pages] == [page.prepared for page in first]
        assert shown(pages) == shown(first)

    assert loads.rendered_by(again) == [] and preparer.calls == []
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


def test_tenants_share_nothing(loads: Loading) -> None:
    preparer = Preparer()
    loads.load(pdf(THREE_PAGES), tenant=b"one", preparer=preparer)
    assert {tenant for tenant, _ in preparer.calls} == {b"one"}
    assert loads.rendered_by(lambda: loads.load(pdf(THREE_PAGES), tenant=b"another")) == ["render"] * 3
    assert loads.rendered_by(lambda: loads.load(pdf(THREE_PAGES), tenant=b"one")) == []


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
            with pytest.raises(TooLargeError, match=r"^6 pages are selected, at most 5") as caught:
                loads.load(pdf(THREE_PAGES), pdf(make_pdf(3, width=400)))
            assert (caught.value.code, caught.value.field) == ("too_many_pages", "documents")
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
        image(make_image(), pages="3", outline=SINGLE_PAGE_OUTLINE),
        image(make_tiff([(4, 4)] * 2), pages="3"),
    ],
)
def test_page_beyond_the_end_names_document_and_page_count(document: MemorySource, loads: Loading) -> None:
    for _ in range(2):
        with pytest.raises(PageOutOfRangeError, match=r"^page 3 does not exist; .* has [12] page") as caught:
            loads.load(image(make_image()), document)
        assert (caught.value.document_index, caught.value.field) == (1, "pages")


def test_bad_document_with_the_lowest_index_is_reported(loads: Loading) -> None:
    for _ in range(3):
        with pytest.raises(UnusableDocumentError) as caught:
            loads.load(pdf(THREE_PAGES), pdf(make_encrypted_pdf(password="x")), pdf(b"bad"))
        assert (caught.value.code, caught.value.document_index) == ("encrypted_document", 1)


def test_page_that_the_model_does_not_take_is_named(loads: Loading) -> None:
    with pytest.raises(UnusableDocumentError, match=r"^The page is 792 px wide\.$") as caught:
        loads.load(image(make_image()), pdf(THREE_PAGES, pages="2"), preparer=PickyPreparer(791, 792))
    assert (caught.value.code, caught.value.document_index, caught.value.page) == ("bad_page_box", 1, 2)


def test_first_page_that_the_model_does_not_take_is_reported_before_later_failures(loads: Loading) -> None:
    class RefusesLaterPagesFirst(PickyPreparer):
        has_refused_a_later_one = threading.Event()

        def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
            if page.pixels.shape[1] == 31:
                assert self.has_refused_a_later_one.wait(PATIENCE_SECONDS)
                time.sleep(TICK_SECONDS)
            if page.pixels.shape[1] == 32:
                self.has_refused_a_later_one.set()
            return super().prepare_page(page, tenant=tenant)

    documents = [image(make_image(width, 40), outline=SINGLE_PAGE_OUTLINE) for width in (30, 31, 32)]
    cut = image(b"\x89PNG\r\n\x1a\nbad", outline=SINGLE_PAGE_OUTLINE)
    with pytest.raises(UnusableDocumentError) as caught:
        loads.load(*documents, cut, preparer=RefusesLaterPagesFirst(31, 32))
    assert (caught.value.code, caught.value.document_index, caught.value.page) == ("bad_page_box", 1, None)


def test_error_of_reading_has_the_index_of_its_document(loads: Loading) -> None:
    original = DocumentNotFoundError("document_not_found", "gone", field="id")

    def fail() -> Content:
        raise original

    with pytest.raises(DocumentNotFoundError) as caught:
        loads.load(pdf(THREE_PAGES), StoredSource(reading=fail, label="b", sha256="00", kind=Kind.PDF))
    assert (caught.value.document_index, caught.value.field) == (1, "id")
    assert original.document_index is None


def test_failed_document_leaves_its_good_pages_known(loads: Loading) -> None:
    with pytest.raises(ServiceError):
        loads.load(
            image(make_image(), outline=SINGLE_PAGE_OUTLINE),
            image(b"\x89PNG\r\n\x1a\nbad", outline=SINGLE_PAGE_OUTLINE),
        )
    assert loads.rendered_by(lambda: loads.load(image(make_image(), outline=SINGLE_PAGE_OUTLINE))) == []


# How it runs


def test_pages_are_prepared_while_later_ones_are_rendered(loads: Loading) -> None:
    rendered_at: list[int] = []

    class Waiting(Preparer):
        def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
            rendered_at.append(len(loads.pool.stages))
            return super().prepare_page(page, tenant=tenant)

    preparer = Waiting()
    loads.load(pdf(make_pdf(100)), preparer=preparer)
    assert rendered_at[0] < 100 == len(preparer.calls)
    assert {thread.rpartition("_")[0] for _, thread in preparer.calls} == {"prepare"}


def test_pixels_are_freed_as_soon_as_their_page_is_prepared(loads: Loading) -> None:
    class Shrinking(Preparer):
        """Keeps nothing of a page. The last call waits for the pixels of the others to go."""

        def __init__(self) -> None:
            super().__init__()
            self.pixels: list[weakref.ref[np.ndarray]] = []

        def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
            self.pixels.append(weakref.ref(page.pixels))
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(self.pixels) == 20 and sum(ref() is not None for ref in self.pixels) > 2:
                assert time.monotonic() < deadline, "pixels of prepared pages are kept"
                time.sleep(TICK_SECONDS)
            return PreparedPage(pixels=np.zeros((1, 1, 3), np.uint8), rows=1, columns=1, content_hash=b"")

    assert len(loads.load(pdf(make_pdf(20)), preparer=Shrinking())) == 20


def test_cancelled_request_stops_before_the_next_page(loads: Loading) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(loads.loader.load([pdf(make_pdf(100))], model_of(Preparer()), tenant=b""))
        await until(lambda: len(loads.pool.stages) > 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rendered = len(loads.pool.stages)
        await loads.loader.load([pdf(make_pdf(1))], model_of(Preparer()), tenant=b"")
        assert len(loads.pool.stages) <= rendered + 2 < 100  # the page in hand, and the other document's

    asyncio.run(scenario())


def test_stages_have_seconds_where_there_was_such_work(loads: Loading) -> None:
    seconds = loads.load_all(pdf(THREE_PAGES), image(make_image())).stage_seconds
    assert set(seconds) == {"render", "decode", "prepare"} and min(seconds.values()) > 0
    assert loads.load_all(pdf(THREE_PAGES)).stage_seconds == {}
    stored = StoredSource(reading=lambda: content(FIVE_PAGES, Kind.PDF))
    assert set(loads.load_all(stored).stage_seconds) == {"fetch", "render", "prepare"}


def test_background_request_yields_to_a_live_one(loads: Loading) -> None:
    async def scenario() -> list[str]:
        order: list[str] = []

        async def load(name: str, data: bytes, *, background: bool) -> None:
            await loads.loader.load([pdf(data)], model_of(Preparer()), tenant=b"", background=background)
            order.append(name)

        background = asyncio.create_task(load("background", make_pdf(80), background=True))
        await until(lambda: len(loads.pool.stages) > 2)
        await asyncio.gather(load("live", make_pdf(90), background=False), background)
        return order

    assert asyncio.run(scenario()) == ["live", "background"]


def test_bytes_are_read_in_a_thread_of_the_loader(loads: Loading) -> None:
    threads: list[threading.Thread] = []

    def read() -> Content:
        threads.append(threading.current_thread())
        return content(THREE_PAGES, Kind.PDF)

    loads.load(StoredSource(reading=read))
    assert threads != [threading.main_thread()] and len(threads) == 1


def test_source_may_lack_hash_and_kind_until_it_is_read(loads: Loading) -> None:
    stored = StoredSource(reading=lambda: content(THREE_PAGES, Kind.PDF), pages=parse_page_selection("2-"))
    pages = loads.load(stored)
    assert shown(pages) == [(0, 2, "a#page=2"), (0, 3, "a#page=3")]
    assert pages[0].document_sha256 == hashlib.sha256(THREE_PAGES).hexdigest()
    assert loads.rendered_by(lambda: loads.load(stored)) == []  # read again, and then found by its hash


def test_document_that_is_replaced_before_it_is_read_gives_pages_of_the_new_version_alone(loads: Loading) -> None:
    old, new = pdf(FIVE_PAGES, pages="2-3"), pdf(make_pdf(4, width=400))
    loads.load(old)
    outdated = replace(
        unreadable(old), reading=new.read, pages=None, outline=DocumentOutline(page_count=5, is_paged=True)
    )
    pages = loads.load(outdated)
    assert [page.number for page in pages] == [1, 2, 3, 4]
    assert {page.document_sha256 for page in pages} == {new.sha256}
    assert len({page.prepared.pixels.shape for page in pages}) == 1


def test_outline_is_found_by_opening_or_taken_from_the_source(loads: Loading) -> None:
    def outline(document: Source) -> DocumentOutline:
        return asyncio.run(loads.loader.outline(document))

    assert outline(pdf(FIVE_PAGES)) == DocumentOutline(page_count=5, is_paged=True)
    assert outline(image(make_image())) == SINGLE_PAGE_OUTLINE
    known = DocumentOutline(page_count=77, is_paged=True)
    assert outline(unreadable(pdf(FIVE_PAGES, outline=known))) == known
    with pytest.raises(UnusableDocumentError):
        outline(pdf(b"%PDF-1.7 bad"))
    assert loads.pool.stages == []


# What is skipped


def skipped(loaded: Loaded) -> list[tuple[int | None, int | None, str]]:
    return [(error.document_index, error.page, error.code) for error in loaded.skipped]


def test_unusable_documents_and_pages_are_left_out_and_the_rest_is_loaded(loads: Loading) -> None:
    def gone() -> Content:
        raise DocumentNotFoundError("document_not_found", "gone", field="id")

    def damaged() -> Content:
        raise InternalError("document_damaged", "its bytes changed")

    missing = StoredSource(reading=gone, sha256="00", kind=Kind.PDF)
    unreadable_before = UnusableDocumentError("invalid_base64", "no base64", document_index=0)
    sources: list[Source | ServiceError] = [
        unreadable_before,
        pdf(THREE_PAGES, pages="2,9"),
        pdf(make_encrypted_pdf(password="x")),
        pdf(make_torn_pdf(), label="torn"),
        missing,
        pdf(THREE_PAGES, pages="4-"),
        image(b"\x89PNG\r\n\x1a\nbad", outline=SINGLE_PAGE_OUTLINE),
        image(make_image(), label="last"),
        pdf(b"bad"),
        StoredSource(reading=damaged, sha256="01", kind=Kind.PDF),
    ]
    for _ in range(2):  # unknown to the cache, and known
        loaded = loads.load_all(*sources, skips_unusable=True)
        assert shown(loaded.pages) == [(1, 2, "a#page=2"), (3, 1, "torn#page=1"), (7, None, "last")]
        assert skipped(loaded) == [
            (0, None, "invalid_base64"),
            (1, 9, "page_out_of_range"),
            (2, None, "encrypted_document"),
            (3, 2, "bad_page_box"),
            (4, None, "document_not_found"),
            (5, None, "page_out_of_range"),
            (6, None, "corrupt_image"),
            (8, None, "corrupt_document"),
            (9, None, "document_damaged"),
        ]
        assert all(error.__traceback__ is None for error in loaded.skipped)


def test_page_that_the_model_does_not_take_is_left_out_alone(loads: Loading) -> None:
    tiff = image(make_tiff([(40, 30), (41, 30), (42, 30)]))
    loaded = loads.load_all(tiff, preparer=PickyPreparer(41), skips_unusable=True)
    assert [page.number for page in loaded.pages] == [1, 3]
    assert skipped(loaded) == [(0, 2, "bad_page_box")]


def test_first_error_is_raised_where_nothing_is_left(loads: Loading) -> None:
    for _ in range(2):
        with pytest.raises(UnusableDocumentError) as caught:
            loads.load(pdf(make_encrypted_pdf(password="x")), pdf(THREE_PAGES, pages="7"), skips_unusable=True)
        assert (caught.value.code, caught.value.document_index) == ("encrypted_document", 0)


def test_faults_of_the_request_and_of_the_service_are_not_skipped(loads: Loading) -> None:
    def fail() -> Content:
        raise UnavailableError("store_unavailable", "down")

    with pytest.raises(UnavailableError):
        loads.load(pdf(THREE_PAGES), StoredSource(reading=fail, sha256="00", kind=Kind.PDF), skips_unusable=True)
    with pytest.raises(TooLargeError, match=r"^101 pages are selected"):
        loads.load(pdf(b"bad"), pdf(make_pdf(98)), pdf(make_pdf(3, width=300)), skips_unusable=True)


def test_documents_are_not_skipped_unless_the_request_asks(loads: Loading) -> None:
    with pytest.raises(UnusableDocumentError):
        loads.load(pdf(THREE_PAGES), UnusableDocumentError("invalid_base64", "no base64", document_index=1))


class Stopwatch:
    """A pace that has time for so many pages, and then for so many seconds. Remembers what it is told."""

    def __init__(self, pages: int, *, seconds: float | None = None) -> None:
        self.pages = pages
        self.seconds = seconds
        self.listed: Sequence[ListedPage] = ()
        self.told: list[Any] = []

    def before_opening(self, documents: int) -> None:
        self.told.append(("opening", documents))

    def after_opening(self, documents: int, seconds: float) -> None:
        self.told.append(("opened", documents, seconds > 0))

    def pages_to_load(self, pages: Sequence[ListedPage]) -> int:
        self.listed = pages
        return self.pages

    def seconds_to_load(self) -> float | None:
        return self.seconds

    def after_drawing(self, pages: Mapping[Kind, int], seconds: float) -> None:
        self.told.append(("drawn", dict(pages), seconds > 0))


def test_only_the_first_pages_are_loaded_where_there_is_no_time_for_more(loads: Loading) -> None:
    pace = Stopwatch(4)
    sources = pdf(THREE_PAGES, label="a"), image(make_image(), label="b"), pdf(FIVE_PAGES, pages="5,1", label="c")
    stages: list[Loaded] = []
    drawn = loads.rendered_by(lambda: stages.append(loads.load_all(*sources, pace=pace)))
    [loaded] = stages
    assert [page.label for page in loaded.pages] == ["a#page=1", "a#page=2", "a#page=3", "b"]
    assert [(page.label, page.number, page.document_index) for page in loaded.unloaded] == [
        ("c#page=5", 5, 2),
        ("c#page=1", 1, 2),
    ]
    assert loaded.unloaded[0].document_sha256 == hashlib.sha256(FIVE_PAGES).hexdigest()
    assert drawn == ["render"] * 3 + ["decode"]
    assert [page.kind for page in pace.listed] == [Kind.PDF] * 3 + [Kind.IMAGE] + [Kind.PDF] * 2
    assert pace.told == [("opening", 3), ("opened", 3, True), ("drawn", {Kind.PDF: 3, Kind.IMAGE: 1}, True)]


def test_a_document_may_be_loaded_in_part(loads: Loading) -> None:
    loaded = loads.load_all(pdf(FIVE_PAGES), pdf(THREE_PAGES, label="b"), pace=Stopwatch(2))
    assert [page.number for page in loaded.pages] == [1, 2]
    assert [page.label for page in loaded.unloaded] == [
        "a#page=3",
        "a#page=4",
        "a#page=5",
        "b#page=1",
        "b#page=2",
        "b#page=3",
    ]
    assert loads.load_all(pdf(FIVE_PAGES), pace=Stopwatch(0)).pages == ()


def test_pages_in_the_cache_are_listed_with_what_is_known_of_them(loads: Loading) -> None:
    loads.load(pdf(FIVE_PAGES, pages="2"))
    pace = Stopwatch(5)
    loads.load(pdf(FIVE_PAGES), pace=pace)
    assert [page.prepared is not None for page in pace.listed] == [False, True, False, False, False]
    again = Stopwatch(5)
    loads.load(pdf(FIVE_PAGES), pace=again)
    assert again.told == [] and all(page.prepared is not None for page in again.listed)


def test_the_pages_that_are_ready_must_do_as_the_time_is_up(loads: Loading) -> None:
    loads.load(pdf(FIVE_PAGES, pages="1,2,4"))
    loaded = loads.load_all(pdf(FIVE_PAGES), pace=Stopwatch(5, seconds=0.0))
    assert [page.number for page in loaded.pages] == [1, 2]
    assert [page.number for page in loaded.unloaded] == [3, 4, 5]
    assert len(loads.load(pdf(FIVE_PAGES))) == 5
