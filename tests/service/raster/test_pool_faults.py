"""Workers that are killed, stopped, worn out or out of memory: only the document at fault fails, and the pool goes on."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from service.errors import (
    ServiceError,
    UnavailableError,
    UnusableDocumentError,
)
from service.raster.pool import RasterPage
from tests.documents import (
    make_endless_pdf,
    make_image,
    make_pdf,
    make_pdf_with_huge_jpeg2000,
)
from tests.patience import until
from tests.service.raster.pools import Pool, answer, image, kill_idle, pdf, raster_document, running_pool

ENOUGH_SECONDS = 1.5
"""A hundred times the time of a small page, so that a loaded machine renders it in time. Each endless page takes this long."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_killed_worker_fails_only_its_document(number: signal.Signals) -> None:
    async def scenario(pool: Pool) -> None:
        pool.stop_worker()
        victim = asyncio.create_task(pool.rasterize(pdf(make_pdf(1))))
        await pool.until_busy()
        other = asyncio.create_task(pool.rasterize(pdf(make_pdf(2))))
        for each in (number, signal.SIGCONT):
            os.kill(pool.pid, each)
        with pytest.raises(UnusableDocumentError) as caught:
            await victim
        assert (caught.value.code, caught.value.document_index) == ("page_crashed", 0)
        assert len(await other) == 2
        assert len(await pool.rasterize(pdf(make_pdf(3)))) == 3

    with running_pool() as pool:
        asyncio.run(scenario(pool))
        assert pool.deaths == ["crash"]


def test_stopped_worker_is_a_timeout_and_is_replaced() -> None:
    with running_pool(open_seconds=ENOUGH_SECONDS) as pool:
        pool.stop_worker()
        with pytest.raises(UnusableDocumentError, match=f"longer than the limit of {ENOUGH_SECONDS} s") as caught:
            pool.ask(pdf(make_pdf(1)))
        assert caught.value.code == "page_timeout"
        assert len(pool.ask(pdf(make_pdf(1)))) == 1
        assert pool.deaths == ["timeout"]


def test_worker_that_dies_idle_quarantines_no_document() -> None:
    with running_pool() as pool:
        for _ in range(3):
            kill_idle(pid := pool.pid)
            assert len(pool.ask(pdf(make_pdf(1)))) == 1
            assert pool.pid != pid
        assert pool.deaths == ["crash"] * 3


def test_endless_page_is_ended_and_refused_at_once_after_the_second_time() -> None:
    with running_pool(page_seconds=ENOUGH_SECONDS) as pool:
        for _ in range(3):
            with pytest.raises(UnusableDocumentError) as caught:
                pool.ask(pdf(make_endless_pdf()))
            assert caught.value.code == "page_timeout"
        assert pool.deaths == ["timeout"] * 2  # the third time no worker saw it
        assert pool.rasterizer.is_alive


def test_document_that_kills_workers_is_skipped_and_then_refused_at_once() -> None:
    async def outcomes(pool: Pool) -> list[str]:
        documents = [raster_document(pdf(make_endless_pdf())), raster_document(pdf(make_pdf(2)), index=1)]
        async with pool.rasterizer.request(documents, skips_unusable=True) as request:
            opened = await request.opened_or_skipped()
            numbers = [() if isinstance(each, ServiceError) else range(1, each.page_count + 1) for each in opened]
            pages = [asyncio.wrap_future(page) for page in request.render(numbers)]
            rendered = await asyncio.gather(*pages, return_exceptions=True)
            return [each.code for each in (*opened, *rendered) if isinstance(each, ServiceError)] + [
                "page" for each in rendered if isinstance(each, RasterPage)
            ]

    with running_pool(page_seconds=ENOUGH_SECONDS) as pool:
        for _ in range(3):
            assert asyncio.run(outcomes(pool)) == ["page_timeout", "page", "page"]
        assert pool.deaths == ["timeout"] * 2  # the third time no worker saw it


def test_document_that_was_open_in_a_dead_worker_is_reopened() -> None:
    async def scenario(pool: Pool) -> None:
        long = asyncio.create_task(pool.rasterize(pdf(make_pdf(300))))
        await until(lambda: len(pool.stages) > 2)  # pages of it: it is open
        with pytest.raises(UnusableDocumentError):
            await pool.rasterize(pdf(make_endless_pdf()))
        assert len(await long) == 300

    with running_pool(page_seconds=ENOUGH_SECONDS) as pool:
        asyncio.run(scenario(pool))
        assert pool.deaths == ["timeout"]


def test_sum_of_a_document_s_pages_is_bounded() -> None:
    """1,000 pages take longer on any machine, one page on none."""
    with running_pool(document_seconds=0.3) as pool:
        with pytest.raises(UnusableDocumentError, match=r"the document takes longer than the limit of 0.3 s") as caught:
            pool.ask(pdf(make_pdf(1_000)))
        assert caught.value.code == "page_timeout"


@linux
@pytest.mark.parametrize("mebibytes", [300, 500])
def test_page_that_needs_too_much_memory_is_an_error_and_never_a_blank_page(mebibytes: int) -> None:
    with running_pool(worker_memory_bytes=mebibytes << 20) as pool:
        pool.ask(pdf(make_pdf(1)))  # a second document in the process: the verdict then comes from a fresh one
        pid = pool.pid
        with pytest.raises(UnusableDocumentError, match=f"{mebibytes} MiB") as caught:
            pool.ask(pdf(make_pdf_with_huge_jpeg2000(edge=6_000)))
        assert caught.value.code in {"page_degraded", "page_memory"}
        assert pool.pid != pid and pool.deaths == []
        assert len(pool.ask(pdf(make_pdf(1)))) == 1


def test_worn_out_worker_is_replaced_between_tasks() -> None:
    with running_pool(recycle_documents=2) as pool:
        pids = set()
        for _ in range(4):
            pids.add(pool.pid)
            assert len(pool.ask(pdf(make_pdf(2)))) == 2
            asyncio.run(until(lambda: bool(pool.rasterizer.worker_pids)))
        assert len(pids) >= 2
        assert pool.deaths == []


def test_worker_that_grew_is_replaced() -> None:
    with running_pool(recycle_rss_bytes=1) as pool:
        assert len(pool.ask(pdf(make_pdf(3)))) == 3
        assert pool.deaths == []


@linux
def test_descriptors_and_children_are_back_to_their_baseline_after_many_kills() -> None:
    def count_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    outside = count_descriptors()
    with running_pool(processes=2) as pool:
        inside = count_descriptors()
        pids = set(pool.rasterizer.worker_pids)
        for round_number in range(10):
            kill_idle(pool.pid)
            assert answer(pool, [pdf(make_pdf(2)), image(make_image())])["status"] == 200
            assert answer(pool, [pdf(b"bad %d" % round_number)])["status"] == 422
            pids.update(pool.rasterizer.worker_pids)
        for _ in range(50):
            pool.ask(pdf(make_pdf(1)))
        assert count_descriptors() <= inside
    assert count_descriptors() == outside
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_crash_storm_goes_on_serving() -> None:
    with running_pool(processes=2) as pool:
        for _ in range(12):
            for pid in pool.rasterizer.worker_pids:
                kill_idle(pid)
            assert len(pool.ask(pdf(make_pdf(2)))) == 2
        assert len(pool.deaths) > 10
        assert pool.rasterizer._crashes.is_storm
        assert pool.rasterizer.is_alive
        assert len(pool.ask(pdf(make_pdf(5)))) == 5


def test_pool_that_cannot_start_a_worker_says_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with running_pool() as pool:
        assert not pool.rasterizer.is_alive
        with pytest.raises(UnavailableError) as caught:
            pool.ask(pdf(make_pdf(1)))
        assert caught.value.code == "not_ready"
        monkeypatch.undo()
        asyncio.run(until(lambda: pool.rasterizer.is_alive))
        assert len(pool.ask(pdf(make_pdf(1)))) == 1
