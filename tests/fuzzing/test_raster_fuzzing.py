"""Mutated documents through the raster pool: pages or a refusal, in time, and a pool that is as before."""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import ServiceError, TooLargeError, UnsupportedMediaTypeError, UnusableDocumentError
from service.raster.limits import RasterLimits
from tests.fuzzing.mutations import mutated
from tests.fuzzing.runs import FuzzRun
from tests.fuzzing.samples import Sample, samples
from tests.patience import eventually
from tests.service.raster.pools import Pool, Wanted, running_pool

WORKERS = 2
MOST_SECONDS = 3 * RasterLimits(processes=WORKERS).document_seconds
"""For one document: the limit counts the time in the worker, not the wait for it, and machines may be loaded."""

REFUSALS = (TooLargeError, UnsupportedMediaTypeError, UnusableDocumentError)
KILLED = ("page_timeout", "page_memory", "page_crashed")
"""Codes of documents that cost a worker its life: allowed, and worth to be looked at, so they are kept too."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    """Processes that this one started and that are there, dead or alive."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def digests(pool: Pool) -> list[str]:
    """Of all pages of all samples."""
    wanted = [Wanted(data=sample.data, kind=sample.kind) for sample in samples() if "encrypted" not in sample.name]
    pages = [page for each in wanted for page in pool.ask(each)]
    return [hashlib.sha256(page.pixels.tobytes()).hexdigest() for page in pages]


async def fuzz(pool: Pool, run: FuzzRun) -> None:
    numbers = run.cases()
    await asyncio.gather(*(fuzz_in_turn(pool, run, numbers) for _ in range(WORKERS)))


async def fuzz_in_turn(pool: Pool, run: FuzzRun, numbers: Iterator[int]) -> None:
    others = [sample.data for sample in samples()]
    for number in numbers:
        random = run.random(number)
        sample = random.choice(samples())
        data = mutated(sample.data, others, random)
        await try_document(pool, run, number, sample, data)


async def try_document(pool: Pool, run: FuzzRun, number: int, sample: Sample, data: bytes) -> None:
    started = time.monotonic()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            pages = await pool.rasterize(Wanted(data=data, kind=sample.kind, numbers=(1,)))
    except TimeoutError:
        run.fail(number, data, f"no answer after {MOST_SECONDS:g} s", sample=sample.name)
    except REFUSALS as refusal:
        if refusal.code in KILLED:
            run.keep(number, data, sample=sample.name, code=refusal.code, seconds=time.monotonic() - started)
        run.note(refusal.code)
    except ServiceError as error:
        run.fail(number, data, f"{error.status} {error.code}", sample=sample.name)
    else:
        run.note("pages" if not pages[0].degraded_reasons else "degraded pages")


def test_documents() -> None:
    run = FuzzRun(name="documents")
    with running_pool(processes=WORKERS) as pool:
        before, files, processes = digests(pool), open_files(), children()
        assert len(processes) >= WORKERS
        asyncio.run(fuzz(pool, run))
        eventually(lambda: len(children()) == len(processes), "dead workers are reaped, and replaced once each")
        eventually(lambda: len(pool.rasterizer.worker_pids) == WORKERS, "all workers run")
        assert digests(pool) == before, "whole documents look as before"
        assert open_files() == files
        assert pool.rasterizer.waiting_requests == 0
    run.report()
    assert run.only or {"pages", "corrupt_image"} <= set(run.outcomes), "some documents survive, some do not"
