"""A raster pool with real workers for tests, and the steps that several tests take with it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from service.errors import (
    ServiceError,
    status_of,
)
from service.page_selection import parse_page_selection
from service.raster.pool import RasterDocument, Rasterizer, RasterLimits, RasterPage

TICK_SECONDS = 0.01


class Pool:
    """A rasterizer, and what it told its observers."""

    def __init__(self, **limits: Any) -> None:
        self.stages: list[str] = []
        self.deaths: list[str] = []
        self.rasterizer = Rasterizer(
            RasterLimits(**{"processes": 1, "max_pages": 100} | limits),
            observe=lambda stage, seconds: self.stages.append(stage),
            on_worker_death=self.deaths.append,
        )

    async def rasterize(self, *documents: RasterDocument) -> list[RasterPage]:
        return await self.rasterizer.rasterize(documents)

    def ask(self, *documents: RasterDocument) -> list[RasterPage]:
        return asyncio.run(self.rasterize(*documents))

    @property
    def pid(self) -> int:
        return self.rasterizer.worker_pids[0]

    async def until_busy(self) -> None:
        """Until the worker has the task in its hands, and not only its thread."""
        await until(lambda: self.rasterizer._schedule.running_tasks > 0)
        await asyncio.sleep(5 * TICK_SECONDS)


@contextmanager
def running_pool(**limits: Any) -> Iterator[Pool]:
    pool = Pool(**limits)
    pool.rasterizer.start()
    try:
        yield pool
    finally:
        pool.rasterizer.close()


def kill_idle(pid: int) -> None:
    """Returns when the process is dead, and leaves it to its parent to find out. (Which may be quicker.)"""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(TICK_SECONDS)


def pdf(data: bytes, *, pages: str | None = None) -> RasterDocument:
    return RasterDocument(data=data, kind="pdf", pages=parse_page_selection(pages) if pages else None)


def image(data: bytes, *, pages: str | None = None) -> RasterDocument:
    return RasterDocument(data=data, kind="image", pages=parse_page_selection(pages) if pages else None)


def answer(pool: Pool, documents: Sequence[RasterDocument]) -> dict[str, Any]:
    try:
        return {"status": 200, "pages": len(pool.ask(*documents))}
    except ServiceError as error:
        return {"status": status_of(error), "code": error.code}
