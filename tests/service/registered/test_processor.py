"""The background work on registered documents: page by page, never in the way, and never lost."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from model import PageImage, PreparedPage, RankingModel, TextPageFormat
from service.documents.loaded import Loaded, LoadedPage
from service.documents.loader import PageLoader
from service.documents.sources import Source
from service.errors import OverloadedError, UnavailableError, UnusableDocumentError
from service.registered.files import DocumentFiles
from service.registered.processor import DocumentProcessor
from service.registered.store import DocumentKey, DocumentStore, Manifest, StoredDocument
from tests.service.registered.stores import REPORT, manifest_of

OTHER = DocumentKey(tenant=b"\x05" * 32, id="other")


class FakePages:
    """Stands for the loader and the device: `before(numbers)` may wait or raise; remembers the loaded and encoded pages."""

    def __init__(self, before: Callable[[list[int]], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.loaded: list[tuple[bytes, list[int], bytes, bool]] = []
        self.encoded: list[int] = []

    async def load(
        self, sources: Sequence[Source], model: RankingModel, *, tenant: bytes, background: bool = False
    ) -> Loaded:
        [source] = sources
        assert source.pages is not None and source.outline is not None
        numbers = [number for span in source.pages.spans(source.outline.page_count) for number in span]
        if self.before:
            await self.before(numbers)
        self.loaded.append((bytes(source.read().data), numbers, tenant, background))
        pages = tuple(self._page(number, source, model, tenant) for number in numbers)
        return Loaded(pages=pages, stage_seconds={})

    def _page(self, number: int, source: Source, model: RankingModel, tenant: bytes) -> LoadedPage:
        pixels = np.full((1, 1, 3), number, np.uint8)
        return LoadedPage(
            document_index=0,
            number=number,
            label=f"{source.label}#page={number}",
            prepared=model.prepare_page(PageImage(pixels=pixels), tenant=tenant),
            degraded_reasons=(),
            document_sha256=source.sha256 or "",
        )

    text_page = TextPageFormat()

    def prepare_page(self, page: PageImage, *, tenant: bytes) -> PreparedPage:
        return PreparedPage(pixels=page.pixels, rows=1, columns=1, content_hash=tenant)

    def submit_background(self, pages: Sequence[PreparedPage]) -> "Future[None]":
        self.encoded += [int(page.pixels[0, 0, 0]) for page in pages]
        done: Future[None] = Future()
        done.set_result(None)
        return done


class Workshop:
    """A processor on a store of its own, and the ends of its work as they come."""

    def __init__(self, pages: FakePages, *, queue_limit: int = 9) -> None:
        self.store = DocumentStore(DocumentFiles(f"memory://{uuid.uuid4().hex}"))
        self.pages = pages
        self.loader = cast(PageLoader, pages)  # of which a processor uses `load` alone
        self.model = cast(RankingModel, pages)  # which a processor only hands to the loader
        self.ends: asyncio.Queue[str] = asyncio.Queue()
        self.pauses: list[float] = []
        self.threads = ThreadPoolExecutor(1)
        self.processor = self.make_processor(queue_limit)

    def make_processor(self, queue_limit: int = 9) -> DocumentProcessor:
        return DocumentProcessor(
            self.store,
            self.loader,
            self.pages.submit_background,
            threads=self.threads,
            queue_limit=queue_limit,
            on_processed=self.ends.put_nowait,
            pause=self.pause,
        )

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def put(self, data: bytes, *, pages: int = 1, key: DocumentKey = REPORT) -> Manifest:
        manifest = replace(manifest_of(data, key.id), page_count=pages)
        self.store.put(key, manifest, data)
        self.processor.add(key)
        return manifest

    def found(self, key: DocumentKey = REPORT) -> StoredDocument:
        document = self.store.find(key)
        assert document is not None
        return document

    async def end(self) -> str:
        return await asyncio.wait_for(self.ends.get(), 30)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_all_pages_are_encoded_a_few_at_a_time_and_then_it_is_ready() -> None:
    async def test() -> None:
        shop = Workshop(FakePages())
        shop.put(b"ten pages", pages=10)
        shop.processor.start(shop.model)
        assert await shop.end() == "ready"
        assert [numbers for _, numbers, _, _ in shop.pages.loaded] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
        assert all(background for _, _, _, background in shop.pages.loaded)
        assert shop.pages.encoded == list(range(1, 11))
        assert shop.found().state == "ready"
        await shop.processor.close()

    run(test())


def test_a_documents_pages_are_cached_for_its_tenant() -> None:
    async def test() -> None:
        shop = Workshop(FakePages())
        shop.put(b"mine", key=OTHER)
        shop.processor.start(shop.model)
        await shop.end()
        assert [tenant for _, _, tenant, _ in shop.pages.loaded] == [OTHER.tenant]
        await shop.processor.close()

    run(test())


def test_a_page_that_cannot_be_rendered_fails_the_document_and_is_named() -> None:
    async def refuse_page_6(numbers: list[int]) -> None:
        if 6 in numbers:
            raise UnusableDocumentError("page_unreadable", "the page cannot be read.", document_index=0, page=6)

    async def test() -> None:
        shop = Workshop(FakePages(refuse_page_6))
        shop.put(b"a torn page", pages=10)
        shop.processor.start(shop.model)
        assert await shop.end() == "failed"
        outcome = shop.found().outcome
        assert outcome and outcome.failure
        assert (outcome.failure.code, outcome.failure.page) == ("page_unreadable", 6)
        assert outcome.failure.message == "the page cannot be read."
        assert shop.pages.encoded == [1, 2, 3, 4]
        await shop.processor.close()

    run(test())


@pytest.mark.parametrize(
    "busy", [OverloadedError("overloaded", "full"), UnavailableError("queue_timeout", "slow")], ids=["full", "slow"]
)
def test_a_service_without_room_is_waited_for_and_no_fault_of_the_document(busy: Exception) -> None:
    attempts = 0

    async def refuse_twice(numbers: list[int]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise busy

    async def test() -> None:
        shop = Workshop(FakePages(refuse_twice))
        shop.put(b"patience")
        shop.processor.start(shop.model)
        assert await shop.end() == "ready"
        assert shop.pauses == [0.5, 1.0]
        await shop.processor.close()

    run(test())


def test_a_service_that_never_has_room_leaves_the_document_in_processing_to_be_resumed() -> None:
    async def refuse(numbers: list[int]) -> None:
        raise OverloadedError("overloaded", "full")

    async def test() -> None:
        shop = Workshop(FakePages(refuse))
        shop.put(b"no luck")
        shop.processor.start(shop.model)
        assert await shop.end() == "interrupted"
        assert shop.found().state == "processing"
        shop.pages.before = None
        shop.processor.resume(REPORT)
        assert await shop.end() == "ready"
        await shop.processor.close()

    run(test())


def test_a_replaced_document_is_stopped_and_the_new_version_processed() -> None:
    async def test() -> None:
        async def replace_meanwhile(numbers: list[int]) -> None:
            if numbers == [5, 6, 7, 8]:
                shop.put(b"new", pages=2)

        shop = Workshop(FakePages(replace_meanwhile))
        shop.put(b"old", pages=100)
        shop.processor.start(shop.model)
        assert [await shop.end(), await shop.end()] == ["replaced", "ready"]
        assert [(data, numbers) for data, numbers, _, _ in shop.pages.loaded] == [
            (b"old", [1, 2, 3, 4]),
            (b"old", [5, 6, 7, 8]),
            (b"new", [1, 2]),
        ]
        assert shop.found().state == "ready" and shop.found().manifest.page_count == 2
        await shop.processor.close()

    run(test())


def test_a_deleted_document_is_not_brought_back() -> None:
    async def test() -> None:
        async def delete_meanwhile(numbers: list[int]) -> None:
            shop.store.delete(REPORT)

        shop = Workshop(FakePages(delete_meanwhile))
        shop.put(b"gone", pages=5)
        shop.processor.start(shop.model)
        assert await shop.end() == "replaced"
        assert shop.store.find(REPORT) is None
        await shop.processor.close()

    run(test())


def test_closing_stops_at_once_and_the_next_processor_takes_it_up() -> None:
    async def test() -> None:
        has_begun = asyncio.Event()

        async def wait_for_ever(numbers: list[int]) -> None:
            has_begun.set()
            await asyncio.Event().wait()

        shop = Workshop(FakePages(wait_for_ever))
        shop.put(b"cut off", pages=5)
        shop.processor.start(shop.model)
        await asyncio.wait_for(has_begun.wait(), 30)
        await asyncio.wait_for(shop.processor.close(), 30)
        assert shop.store.unfinished() == [REPORT]

        shop.pages.before = None
        successor = shop.make_processor()
        successor.resume(REPORT)
        successor.start(shop.model)
        assert await shop.end() == "ready"
        assert shop.store.unfinished() == []
        await successor.close()

    run(test())


def test_a_bug_in_one_document_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async def break_once(numbers: list[int]) -> None:
        shop_pages.before = None
        raise RuntimeError("a bug")

    shop_pages = FakePages(break_once)

    async def test() -> None:
        shop = Workshop(shop_pages)
        shop.put(b"first")
        shop.put(b"second", key=OTHER)
        shop.processor.start(shop.model)
        assert [await shop.end(), await shop.end()] == ["interrupted", "ready"]
        assert "a bug" in caplog.text
        assert shop.found().state == "processing" and shop.found(OTHER).state == "ready"
        await shop.processor.close()

    run(test())


def test_a_full_queue_refuses_new_documents_and_resumes_none() -> None:
    async def test() -> None:
        shop = Workshop(FakePages(), queue_limit=1)
        shop.processor.refuse_when_full()
        shop.put(b"waits")
        with pytest.raises(OverloadedError, match="1 documents are waiting"):
            shop.processor.refuse_when_full()
        shop.processor.resume(OTHER)
        assert shop.processor.waiting_documents == 1
        shop.processor.start(shop.model)
        await shop.end()
        shop.processor.refuse_when_full()
        await shop.processor.close()

    run(test())


def test_a_document_met_many_times_is_processed_once() -> None:
    async def test() -> None:
        shop = Workshop(FakePages())
        shop.put(b"popular")
        for _ in range(5):
            shop.processor.resume(REPORT)
        shop.processor.start(shop.model)
        await shop.end()
        shop.processor.resume(REPORT)
        assert await shop.end() == "ready"
        assert len(shop.pages.loaded) == 1
        await shop.processor.close()

    run(test())
