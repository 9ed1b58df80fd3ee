"""A raster pool with real workers for tests, and the steps that several tests take with it."""

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from service.errors import (
    ServiceError,
)
from service.raster.pool import DocumentOutline, Kind, RasterDocument, Rasterizer, RasterLimits, RasterPage
from tests.patience import until


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A document, and the page numbers that a test asks for (none: all)."""

    data: bytes
    kind: Kind
    numbers: tuple[int, ...] = ()

    def numbers_of(self, outline: DocumentOutline) -> tuple[int, ...]:
        return self.numbers or tuple(range(1, outline.page_count + 1))


class Pool:
    """A rasterizer, and the calls of its observers."""

    def __init__(self, **limits: Any) -> None:
        self.stages: list[str] = []
        self.threads: list[str] = []  # names of the supervising threads, page by page
        self.deaths: list[str] = []
        self.rasterizer = Rasterizer(
            RasterLimits(**{"processes": 1} | limits),
            observe=self._observe,
            on_worker_death=self.deaths.append,
        )
        self._calls_when_stopped = 0

    def _observe(self, stage: str, seconds: float) -> None:
        self.stages.append(stage)
        self.threads.append(threading.current_thread().name)

    async def rasterize(self, *documents: Wanted, background: bool = False) -> list[RasterPage]:
        """The pages in document order, then in the order asked for."""
        raster_documents = [raster_document(wanted, index=index) for index, wanted in enumerate(documents)]
        async with self.rasterizer.request(raster_documents, background=background) as request:
            opened = zip(documents, await request.opened(), strict=True)
            return await request.render_all([wanted.numbers_of(outline) for wanted, outline in opened])

    def ask(self, *documents: Wanted) -> list[RasterPage]:
        return asyncio.run(self.rasterize(*documents))

    @property
    def pid(self) -> int:
        return self.rasterizer.worker_pids[0]

    def stop_worker(self) -> None:
        """The first worker does nothing more, whatever it is asked; SIGCONT lets it go on."""
        os.kill(self.pid, signal.SIGSTOP)
        self._calls_when_stopped = self._calls

    async def until_busy(self) -> None:
        """Until the stopped worker has been called, so that its death would be that call's."""
        await until(lambda: self._calls > self._calls_when_stopped)

    @property
    def _calls(self) -> int:
        process = self.rasterizer._supervisors[0]._process
        return process._ticket if process else 0


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


def pdf(data: bytes, *numbers: int) -> Wanted:
    return Wanted(data=data, kind=Kind.PDF, numbers=numbers)


def image(data: bytes, *numbers: int) -> Wanted:
    return Wanted(data=data, kind=Kind.IMAGE, numbers=numbers)


def text(data: str, *numbers: int) -> Wanted:
    return Wanted(data=data.encode(), kind=Kind.TEXT, numbers=numbers)


def raster_document(wanted: Wanted, *, index: int | None = 0) -> RasterDocument:
    sha256 = hashlib.sha256(wanted.data).hexdigest()
    return RasterDocument(index=index, data=wanted.data, sha256=sha256, kind=wanted.kind)


def answer(pool: Pool, documents: Sequence[Wanted]) -> dict[str, Any]:
    try:
        return {"status": 200, "pages": len(pool.ask(*documents))}
    except ServiceError as error:
        return {"status": error.status, "code": error.code}
