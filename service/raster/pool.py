"""The raster pool's front: untrusted PDFs, images and texts in, RGB pages out, whatever the bytes do to the workers.

    Rasterizer ── PendingRaster (a request in its sender's hands: opened, then rendered)
        ├── RasterSchedule (turns of callers, bounds) ── RasterRequest (its tasks; a failure drops the rest)
        └── RasterSupervisor, a thread per worker ── RasterProcess ══ socket, shared slot ══ worker (child)
                └── CrashHistory (quarantine, storms)

The event loop only awaits results here: the supervising threads talk to the children and copy the pages.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from service.errors import ServiceError
from service.host_gate import HostGate
from service.raster.crash_history import CrashHistory
from service.raster.limits import RasterLimits
from service.raster.page import LONGEST_VIEW_EDGE, DocumentOutline, Kind
from service.raster.process import RasterPage
from service.raster.request import RasterDocument, RasterRequest
from service.raster.schedule import RasterSchedule, draining, not_ready
from service.raster.supervisor import RasterSupervisor

__all__ = [
    "LONGEST_VIEW_EDGE",
    "DocumentOutline",
    "Kind",
    "PendingRaster",
    "RasterDocument",
    "RasterLimits",
    "RasterPage",
    "Rasterizer",
]


def _observe_nothing(stage: str, seconds: float) -> None:
    pass


def _ignore_death(cause: str) -> None:
    pass


class Rasterizer:
    """A pool of worker processes. `start` and `close` block; requests are made on the event loop."""

    def __init__(
        self,
        limits: RasterLimits,
        *,
        observe: Callable[[str, float], None] = _observe_nothing,
        on_worker_death: Callable[[str], None] = _ignore_death,
        gate: HostGate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """observe: called with ("render", seconds) for a page of a PDF or a text and ("decode", seconds) for an image frame.

        on_worker_death: called with one of timeout, cpu, memory, protocol, crash.
        Both are called in supervising threads and must not raise. gate: keeps callers' work out for short times.
        """
        self._limits = limits
        self._crashes = CrashHistory(on_worker_death=on_worker_death, clock=clock)
        self._schedule = RasterSchedule(
            workers=limits.processes,
            queue_requests=limits.queue_requests,
            queue_bytes=limits.queue_bytes,
            is_storm=lambda: self._crashes.is_storm,
            gate=gate,
        )
        self._supervisors = [
            RasterSupervisor(
                self._schedule,
                self._crashes,
                limits=limits,
                observe=observe,
                on_failed_start=self._fail_if_none_is_left,
            )
            for _ in range(limits.processes)
        ]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Returns when every child has started, or failed to: see `is_alive`."""
        for number, supervisor in enumerate(self._supervisors):
            thread = threading.Thread(target=supervisor.run, name=f"raster-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        for supervisor in self._supervisors:
            supervisor.has_tried_to_start.wait()

    def request(
        self,
        documents: Sequence[RasterDocument],
        *,
        share_id: str = "",
        background: bool = False,
        skips_unusable: bool = False,
    ) -> "PendingRaster":
        """A request for pages of these documents. It enters the pool when there is something to open or to render.

        share_id: of the caller, see `Caller.share_id`. background: it yields to all others.
        skips_unusable: it goes on without a document or page that is unusable.
        """
        raster_request = RasterRequest(
            documents, share_id=share_id, is_background=background, skips_unusable=skips_unusable
        )
        return PendingRaster(self, raster_request)

    @property
    def is_alive(self) -> bool:
        """Whether a worker runs or is being replaced. Hostile documents cannot make it False; a failing start does."""
        return not self._schedule.is_closed and any(supervisor.is_healthy for supervisor in self._supervisors)

    @property
    def waiting_requests(self) -> int:
        return self._schedule.waiting_requests

    @property
    def worker_pids(self) -> tuple[int, ...]:
        return tuple(pid for supervisor in self._supervisors if (pid := supervisor.pid))

    def close(self) -> None:
        """Fail all requests, kill the children, join the threads. May be called twice."""
        self._schedule.close()
        for supervisor in self._supervisors:
            supervisor.interrupt()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _fail_if_none_is_left(self) -> None:
        if not any(supervisor.is_healthy for supervisor in self._supervisors):
            self._schedule.fail_all(not_ready)

    def _admit(self, request: RasterRequest) -> asyncio.TimerHandle:
        """Queue the request. The timer fails it where no worker begins with it in time. Raises: see `PendingRaster`."""
        if self._schedule.is_closed:
            raise draining()
        if not self.is_alive:
            raise not_ready()
        self._schedule.admit(request)
        return asyncio.get_running_loop().call_later(self._limits.queue_seconds, self._schedule.expire, request)


class PendingRaster:
    """A request in its sender's hands, used in `async with`: await `opened`, then `render` pages. Leaving drops the rest."""

    def __init__(self, rasterizer: Rasterizer, request: RasterRequest) -> None:
        self._rasterizer = rasterizer
        self._request = request
        self._expiry: asyncio.TimerHandle | None = None  # None: the request has not entered the pool

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._rasterizer._schedule.withdraw(self._request)

    async def opened(self) -> list[DocumentOutline]:
        """The outlines of all documents, once those without one are opened. Does not enter the pool where all have one.

        Raises: UnusableDocumentError, TooLargeError about the first document at fault, whichever fails first;
        OverloadedError, UnavailableError about the pool.
        """
        outcomes = await self.opened_or_skipped()
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, DocumentOutline)]

    async def opened_or_skipped(self) -> list[DocumentOutline | ServiceError]:
        """As `opened`; where the request skips, an unusable document has its error in the place of its outline.

        Raises: see `opened`, of a request that skips only OverloadedError and UnavailableError.
        """
        if self._request.openings:
            self._expiry = self._rasterizer._admit(self._request)
        to_open = [state for state in self._request.states if state.document.outline is None]
        for state, opening in zip(to_open, self._request.openings, strict=True):
            try:
                await asyncio.wrap_future(opening)
            except ServiceError:
                if state.error is None:
                    raise
        outcomes = [state.outline or state.error for state in self._request.states]
        return [outcome for outcome in outcomes if outcome is not None]

    def render(self, numbers_by_document: Sequence[Sequence[int]]) -> list[Future[RasterPage]]:
        """Begin to render the pages of these numbers (1-based), document by document. Called once, after `opened`.

        One future a number, in their order. Each is done in a supervising thread, as soon as its page is rendered or fails:
        UnusableDocumentError, TooLargeError, or UnavailableError about the pool. After a failure the pages that have not begun
        are cancelled; their positions are higher, so of several errors the one with the lowest position is always the same. A
        request that skips goes on after an unusable page.
        Dropping a future frees the pixels of its page. Without any number the request does not enter the pool.

        Raises: OverloadedError, UnavailableError.
        """
        if self._expiry is not None:
            return self._rasterizer._schedule.add_pages(self._request, numbers_by_document)
        pages = self._request.add_pages(numbers_by_document)
        if pages:
            self._expiry = self._rasterizer._admit(self._request)
        return pages

    async def render_all(self, numbers_by_document: Sequence[Sequence[int]]) -> list[RasterPage]:
        """The pages of `render`. Raises: the error with the lowest position, and see `render`."""
        pages = [asyncio.wrap_future(page) for page in self.render(numbers_by_document)]
        outcomes = await asyncio.gather(*pages, return_exceptions=True)
        if errors := [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]:
            raise errors[0]
        return [page.result() for page in pages]
