"""What a caller of the raster pool gets: pages in order, one failure, fairness, bounds."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import (
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnavailableError,
    UnusableDocumentError,
)
from service.raster.page import SINGLE_PAGE_OUTLINE, Kind
from service.raster.pool import DocumentOutline
from tests.broken_pdfs import make_pdf_with_root
from tests.documents import (
    make_encrypted_pdf,
    make_endless_pdf,
    make_image,
    make_pdf,
    make_pdf_with_truncated_image,
    make_png_header,
    make_raw_pdf,
    make_tiff,
)
from tests.patience import PATIENCE_SECONDS, until
from tests.service.raster.pools import Pool, Wanted, answer, image, pdf, raster_document, running_pool, text

SAMPLES = Path(__file__).parents[3].parent / "shared" / "samples"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with running_pool(processes=2) as pool:
        yield pool
        assert pool.deaths == []


def manifest() -> list[dict[str, Any]]:
    if not (SAMPLES / "manifest.jsonl").exists():
        return []
    return [json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text().splitlines()]


MENDED = {"img-truncated.jpg": {"status": 200, "pages": 1}}
"""Accepted by now: the file lacks nothing but its end marker."""


@pytest.mark.parametrize("entry", manifest(), ids=lambda entry: entry["file"])
def test_real_document_gets_an_accepted_answer(entry: dict[str, Any], pool: Pool) -> None:
    data = (SAMPLES / entry["file"]).read_bytes()
    assert answer(pool, [pdf(data) if entry["file"].endswith(".pdf") else image(data)]) in [
        *entry["accept"],
        MENDED.get(entry["file"]),
    ]


def test_pages_come_in_the_order_asked_for(pool: Pool) -> None:
    data = make_pdf(4)
    pages = pool.ask(pdf(data, 3, 1, 2), image(make_image(20, 30)), image(make_tiff([(9, 9), (9, 9)]), 2, 1))
    assert [page.pixels.shape[0] for page in pages] == [1024] * 3 + [30] + [9] * 2
    darkness = [255 - page.pixels.mean() for page in pages[:3]]
    assert darkness[1] < darkness[2] < darkness[0]
    assert [page.pixels[0, 0, 0] for page in pages[4:]] == [20, 10]


def test_same_page_is_the_same_pixels_whichever_worker_renders_it(pool: Pool) -> None:
    first, *others = (pool.ask(pdf(make_pdf(3), 2))[0] for _ in range(4))
    assert all((page.pixels == first.pixels).all() for page in others)


def test_pixels_belong_to_the_caller(pool: Pool) -> None:
    page = pool.ask(pdf(make_pdf(1)))[0]
    assert page.pixels.flags.owndata and page.pixels.flags.writeable
    assert page.pixels.dtype == "uint8" and page.pixels.shape[0] == 1024


def test_no_documents_are_no_pages(pool: Pool) -> None:
    assert pool.ask() == []


def test_lost_content_is_flagged(pool: Pool) -> None:
    assert [page.degraded_reasons for page in pool.ask(pdf(make_pdf_with_truncated_image()), pdf(make_pdf(1)))] == [
        ("image",),
        (),
    ]


def test_stages_are_observed_once_a_page() -> None:
    with running_pool() as pool:
        pool.ask(pdf(make_pdf(3)), image(make_image()))
        assert sorted(pool.stages) == ["decode", "render", "render", "render"]


def test_outlines_of_all_documents_come_before_the_first_page_is_rendered() -> None:
    async def scenario(pool: Pool) -> None:
        documents = [raster_document(pdf(make_pdf(3))), raster_document(image(make_image()), index=1)]
        async with pool.rasterizer.request(documents) as request:
            outlines = await request.opened()
            assert [(outline.page_count, outline.is_paged) for outline in outlines] == [(3, True), (1, False)]
            assert pool.stages == []

    with running_pool() as pool:
        asyncio.run(scenario(pool))


def test_request_without_anything_to_open_or_to_render_does_not_enter_the_pool() -> None:
    async def scenario(pool: Pool) -> None:
        known = replace(raster_document(pdf(make_pdf(3))), outline=DocumentOutline(page_count=3, is_paged=True))
        for documents in ([], [known]):
            async with pool.rasterizer.request(documents) as request:
                assert len(await request.opened()) == len(documents)
                assert await request.render_all([()] * len(documents)) == []

    asyncio.run(scenario(Pool()))  # never started: it refuses every request that enters


def test_known_document_is_rendered_without_being_opened_first(pool: Pool) -> None:
    async def scenario() -> None:
        known = replace(raster_document(pdf(make_pdf(3))), outline=DocumentOutline(page_count=77, is_paged=True))
        async with pool.rasterizer.request([known]) as request:
            assert (await request.opened())[0].page_count == 77
            [page] = await request.render_all([[2]])
            assert page.pixels.shape[0] == 1024

    asyncio.run(scenario())


def test_page_is_there_while_an_earlier_one_is_still_being_rendered() -> None:
    """Both workers are stopped until each has one of the first two pages; then only the second one goes on."""

    async def scenario(pool: Pool) -> None:
        async with pool.rasterizer.request([raster_document(pdf(make_pdf(3)))]) as request:
            await request.opened()
            other = pool.rasterizer.worker_pids[1]
            os.kill(other, signal.SIGSTOP)
            pool.stop_worker()
            rendering = [asyncio.wrap_future(page) for page in request.render([[1, 2, 3]])]
            await pool.until_busy()
            os.kill(other, signal.SIGCONT)
            await rendering[2]
            assert [page.done() for page in rendering[:2]].count(True) == 1
            os.kill(pool.pid, signal.SIGCONT)
            await asyncio.gather(*rendering)

    patient = dict.fromkeys(("open_seconds", "page_seconds", "document_seconds"), 2 * PATIENCE_SECONDS)
    with running_pool(processes=2, **patient) as pool:
        asyncio.run(scenario(pool))


def test_first_page_at_fault_is_reported_whichever_fails_first() -> None:
    """The second document is refused at once, the first one when its time is over."""

    async def scenario(pool: Pool) -> None:
        endless = replace(
            raster_document(pdf(make_endless_pdf())), outline=DocumentOutline(page_count=1, is_paged=True)
        )
        sliver = replace(raster_document(image(make_image(900, 2)), index=1), outline=SINGLE_PAGE_OUTLINE)
        async with pool.rasterizer.request([endless, sliver]) as request:
            await request.opened()
            with pytest.raises(UnusableDocumentError) as caught:
                await request.render_all([[1], [1]])
        assert (caught.value.code, caught.value.document_index) == ("page_timeout", 0)

    with running_pool(processes=2, page_seconds=1.5) as pool:
        asyncio.run(scenario(pool))


def test_leaving_a_request_drops_the_pages_that_have_not_begun() -> None:
    async def scenario(pool: Pool) -> None:
        async with pool.rasterizer.request([raster_document(pdf(make_pdf(100)))]) as request:
            await request.opened()
            await asyncio.wrap_future(request.render([range(1, 101)])[0])
        rendered = len(pool.stages)
        await pool.rasterize(pdf(make_pdf(1)))
        assert len(pool.stages) <= rendered + 2

    with running_pool() as pool:
        asyncio.run(scenario(pool))


def test_pool_that_closes_between_the_phases_fails_the_second_one() -> None:
    async def scenario(pool: Pool) -> None:
        async with pool.rasterizer.request([raster_document(pdf(make_pdf(3)))]) as request:
            await request.opened()
            pool.rasterizer.close()
            with pytest.raises(UnavailableError) as caught:
                await request.render_all([[1]])
        assert caught.value.code == "draining"

    with running_pool() as pool:
        asyncio.run(scenario(pool))


def test_live_request_overtakes_a_background_one() -> None:
    async def scenario(pool: Pool) -> list[str]:
        order: list[str] = []

        async def run(name: str, document: Wanted) -> None:
            await pool.rasterize(document, background=name == "background")
            order.append(name)

        background = asyncio.create_task(run("background", pdf(make_pdf(100))))
        await until(lambda: len(pool.stages) > 2)
        await asyncio.gather(background, run("live", pdf(make_pdf(100))))  # in turns the other would end first
        return order

    with running_pool() as pool:
        assert asyncio.run(scenario(pool)) == ["live", "background"]


def test_bad_document_with_the_lowest_index_is_reported(pool: Pool) -> None:
    for _ in range(5):
        with pytest.raises(UnusableDocumentError) as caught:
            pool.ask(pdf(make_pdf(1)), pdf(make_encrypted_pdf(password="x")), image(b"bad"), pdf(b"bad"))
        assert (caught.value.code, caught.value.document_index) == ("encrypted_document", 1)


def test_bad_page_is_named(pool: Pool) -> None:
    with pytest.raises(UnusableDocumentError, match=r"^the size of 1000 x 1 ") as caught:
        pool.ask(image(make_image()), pdf(make_raw_pdf(media_box="[0 0 1000 1]")))
    assert (caught.value.code, caught.value.document_index, caught.value.page) == ("bad_page_box", 1, 1)


def test_document_that_is_in_no_query_has_no_index_in_its_error(pool: Pool) -> None:
    async def scenario() -> None:
        async with pool.rasterizer.request([raster_document(pdf(b"bad"), index=None)]) as request:
            with pytest.raises(UnusableDocumentError) as caught:
                await request.opened()
        assert (caught.value.code, caught.value.document_index) == ("corrupt_document", None)

    asyncio.run(scenario())


HOSTILE = {
    "text as PDF": pdf(b"hello"),
    "header only": pdf(b"%PDF-1.7\n"),
    "half a PDF": pdf(make_pdf(3)[:700]),
    "encrypted": pdf(make_encrypted_pdf(password="x")),
    "sliver": pdf(make_raw_pdf(media_box="[0 0 9999 1]")),
    "user unit 0": pdf(make_raw_pdf(media_box="[0 0 9 9]", page_keys="/UserUnit 0")),
    "text as image": image(b"hello"),
    "cut image": image(make_image(300, 300)[:60]),
    "bomb": image(make_png_header(100_000, 100_000)),
    "long edge": image(make_png_header(30_000, 300)),
    "image sliver": image(make_image(900, 2)),
    "frames": image(make_tiff([(1, 1)] * 1_001)),
    "text of nothing": text("\u3164\x00"),
    "text of many pages": text("hello\n" * 200_000),
}


@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE.keys())
def test_message_is_ours_and_no_library_s(document: Wanted, pool: Pool) -> None:
    with pytest.raises(ServiceError) as caught:
        pool.ask(document)
    message = caught.value.message
    assert 400 <= caught.value.status < 500
    assert caught.value.document_index == 0
    assert "documents" not in message and message.endswith(".")
    for leak in ("0x", "code=", "Error", "mupdf", "Fz", "PIL", "/", "hello", "Traceback"):
        assert leak not in message


def test_bomb_names_its_size_and_the_limit(pool: Pool) -> None:
    with pytest.raises(TooLargeError, match=r"30000 x 300 is too large, at most 40000000 pixels and 20000") as caught:
        pool.ask(image(make_png_header(30_000, 300)))
    assert caught.value.code == "image_too_many_pixels"


def test_text_is_called_a_text_and_its_limit_is_named(pool: Pool) -> None:
    with pytest.raises(TooLargeError, match=r"^the text fills more than 200 pages") as caught:
        pool.ask(text("hello\n" * 200_000))
    assert caught.value.code == "too_many_pages"
    with pytest.raises(UnusableDocumentError, match=r"^nothing in the text can be drawn") as empty:
        pool.ask(text("\u3164"))
    assert (empty.value.code, empty.value.status) == ("empty_text", 422)


def test_short_and_long_texts_are_rendered(pool: Pool) -> None:
    before = len(pool.stages)
    pages = pool.ask(text("harbour"), text("harbour mirror " * 3_000))
    assert pool.stages[before:] == ["render"] * len(pages) and len(pages) > 2
    assert [page.pixels.shape[0] for page in pages] == [280] + [1024] * (len(pages) - 1)


def test_one_page_request_overtakes_a_long_one() -> None:
    async def scenario(pool: Pool) -> list[str]:
        order: list[str] = []

        async def run(name: str, document: Wanted) -> None:
            await pool.rasterize(document)
            order.append(name)

        long = asyncio.create_task(run("long", pdf(make_pdf(100))))
        await until(lambda: len(pool.stages) > 2)
        await asyncio.gather(long, *(run("short", pdf(make_pdf(1))) for _ in range(3)))
        return order

    with running_pool() as pool:
        assert asyncio.run(scenario(pool)) == ["short"] * 3 + ["long"]


def test_cancelled_request_stops_before_the_next_page() -> None:
    async def scenario(pool: Pool) -> None:
        task = asyncio.create_task(pool.rasterize(pdf(make_pdf(100))))
        await until(lambda: len(pool.stages) > 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rendered = len(pool.stages)
        await pool.rasterize(pdf(make_pdf(1)))
        assert len(pool.stages) <= rendered + 2 < 100  # the page in hand, and the other document's

    with running_pool() as pool:
        asyncio.run(scenario(pool))


def test_full_queue_refuses_requests_and_serves_the_admitted_ones() -> None:
    async def scenario(pool: Pool) -> None:
        pool.stop_worker()
        admitted = [asyncio.create_task(pool.rasterize(pdf(make_pdf(1)))) for _ in range(3)]
        await pool.until_busy()
        assert pool.rasterizer.waiting_requests == 2
        with pytest.raises(OverloadedError) as caught:
            await pool.rasterize(pdf(make_pdf(1)))
        assert caught.value.retry_after_seconds in range(1, 6)
        os.kill(pool.pid, signal.SIGCONT)
        assert [len(pages) for pages in await asyncio.gather(*admitted)] == [1, 1, 1]

    with running_pool(queue_requests=2) as pool:
        asyncio.run(scenario(pool))


def test_request_that_waits_too_long_for_its_first_task_is_refused_with_retry_after() -> None:
    async def scenario(pool: Pool) -> None:
        pool.stop_worker()
        started = asyncio.create_task(pool.rasterize(pdf(make_pdf(1))))
        await pool.until_busy()
        with pytest.raises(UnavailableError) as caught:
            await pool.rasterize(pdf(make_pdf(1)))
        assert caught.value.code == "queue_timeout" and caught.value.retry_after_seconds
        os.kill(pool.pid, signal.SIGCONT)
        assert len(await started) == 1

    with running_pool(queue_seconds=0.2) as pool:
        asyncio.run(scenario(pool))


def test_workers_share_one_long_document() -> None:
    async def scenario(pool: Pool) -> None:
        task = asyncio.create_task(pool.rasterize(pdf(make_pdf(100))))
        await until(lambda: len(pool.stages) > 2)
        assert len(await task) == 100
        assert set(pool.threads) == {"raster-0", "raster-1"}

    with running_pool(processes=2) as pool:
        asyncio.run(scenario(pool))


def test_closing_fails_running_and_waiting_requests_at_once() -> None:
    async def scenario(pool: Pool) -> list[str]:
        pool.stop_worker()
        tasks = [asyncio.create_task(pool.rasterize(pdf(make_pdf(1)))) for _ in range(3)]
        await pool.until_busy()
        pool.rasterizer.close()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        return [error.code for error in errors if isinstance(error, UnavailableError)]

    limits = dict.fromkeys(("open_seconds", "document_seconds", "queue_seconds"), 2 * PATIENCE_SECONDS)
    with running_pool(**limits) as pool:
        began = time.monotonic()
        assert asyncio.run(scenario(pool)) == ["draining"] * 3
        assert time.monotonic() - began < PATIENCE_SECONDS  # and not only when the worker's time is over
        assert not pool.rasterizer.is_alive and pool.deaths == []
        with pytest.raises(UnavailableError):
            pool.ask(pdf(make_pdf(1)))


def test_event_loop_is_not_held_up_by_large_documents() -> None:
    """A document that no socket's buffer holds, to a worker that does not read: the sending thread waits."""

    async def scenario(pool: Pool) -> None:
        pool.stop_worker()
        task = asyncio.create_task(pool.rasterize(pdf(make_pdf(1) + bytes(20 << 20))))
        await pool.until_busy()
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert not task.done()
        os.kill(pool.pid, signal.SIGCONT)
        assert len(await task) == 1

    with running_pool(open_seconds=PATIENCE_SECONDS) as pool:
        asyncio.run(scenario(pool))


@pytest.mark.parametrize(
    ("root_keys", "remedy"),
    [
        (b"/NeedsRendering true/AcroForm<</XFA @xfa>>", "XFA only.*Print the form"),
        (b"/Collection<<>>", "portfolio.*Send"),
    ],
)
def test_document_whose_pages_stand_in_for_others_is_refused_with_a_remedy(
    pool: Pool, root_keys: bytes, remedy: str
) -> None:
    data = make_pdf_with_root(root_keys)
    with pytest.raises(UnusableDocumentError, match=remedy) as caught:
        pool.ask(pdf(data))
    assert (caught.value.code, caught.value.document_index) == ("unsupported_document", 0)


def test_page_that_lost_content_is_refused_where_the_operator_wants_that() -> None:
    with running_pool(on_degraded_page="error") as pool:
        assert pool.ask(pdf(make_pdf(1)))[0].degraded_reasons == ()
        with pytest.raises(UnusableDocumentError, match="damaged or missing") as caught:
            pool.ask(pdf(make_pdf_with_truncated_image()))
        assert (caught.value.code, caught.value.page) == ("page_degraded", 1)
        with pytest.raises(UnusableDocumentError, match="no installed font") as caught:
            pool.ask(Wanted(data="harbour \U000f1234".encode(), kind=Kind.TEXT))
        assert caught.value.code == "page_degraded"


def test_every_page_is_drawn_where_the_operator_wants_flags_only() -> None:
    with running_pool(on_degraded_page="flag") as pool:
        pages = pool.ask(pdf(make_pdf_with_truncated_image()), pdf(make_pdf_with_root(b"/Collection<<>>")))
    assert [page.degraded_reasons for page in pages] == [("image",), ("portfolio",)]
