"""The raster pool's front: untrusted PDF and image bytes in, RGB pages out, whatever the bytes do to the workers.

    Rasterizer ── RasterSchedule (round robin, bounds) ── RasterRequest (opens, plans, then pages; first failure wins)
        └── RasterSupervisor, a thread per worker ── RasterProcess ══ socket, shared slot ══ worker (child)
                └── DeathRecord (documents that kill, storms)

The event loop only waits here, once a request: talking to children, copying pages and delivering them is the supervising
threads' work. Knows neither HTTP nor the model.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from service.raster.deaths import DeathRecord
from service.raster.limits import RasterLimits
from service.raster.page import DocumentOutline
from service.raster.request import Deliver, Plan, RasterDocument, RasterPage, RasterRequest
from service.raster.schedule import RasterSchedule, draining, not_ready
from service.raster.supervisor import RasterSupervisor

__all__ = ["DocumentOutline", "RasterDocument", "RasterLimits", "RasterPage", "Rasterizer"]


def _observe_nothing(stage: str, seconds: float) -> None:
    pass


def _ignore_death(cause: str) -> None:
    pass


def _no_pages(outlines: Sequence[DocumentOutline]) -> list[tuple[int, ...]]:
    return [() for _ in outlines]


class Rasterizer:
    """`observe` gets ("render", seconds) for a PDF page and ("decode", seconds) for an image frame, `on_worker_death` one
    of timeout, cpu, memory, protocol, crash. Both are called in supervising threads and must not raise."""

    def __init__(
        self,
        limits: RasterLimits,
        *,
        observe: Callable[[str, float], None] = _observe_nothing,
        on_worker_death: Callable[[str], None] = _ignore_death,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._deaths = DeathRecord(on_worker_death=on_worker_death, clock=clock)
        self._schedule = RasterSchedule(
            workers=limits.processes,
            queue_requests=limits.queue_requests,
            queue_bytes=limits.queue_bytes,
            is_storm=lambda: self._deaths.is_storm,
        )
        self._supervisors = [self._make_supervisor(observe) for _ in range(limits.processes)]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Returns when every child has said hello, or failed to: `is_alive` tells."""
        for number, supervisor in enumerate(self._supervisors):
            thread = threading.Thread(target=supervisor.run, name=f"raster-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        for supervisor in self._supervisors:
            supervisor.has_tried_to_start.wait()

    async def rasterize(
        self, documents: Sequence[RasterDocument], *, plan: Plan, deliver: Deliver, background: bool = False
    ) -> list[DocumentOutline]:
        """Deliver the planned pages, and return the documents' outlines when all are delivered. Cancelling drops what is left.

        A background request yields to all others.
        Raises: UnusableDocumentError, TooLargeError about the documents; OverloadedError, UnavailableError about the pool;
        what `plan` and `deliver` raise.
        """
        request = RasterRequest(documents, plan=plan, deliver=deliver, is_background=background)
        if not request.is_over:
            self._require_alive()
            self._schedule.admit(request)
        return await self._await(request)

    async def outline(self, document: RasterDocument) -> DocumentOutline:
        """Open a document and render nothing. Raises: what `rasterize` raises."""
        [outline] = await self.rasterize([document], plan=_no_pages, deliver=lambda page: None)
        return outline

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
        """Fail what waits, kill the children, join the threads. May be called twice."""
        self._schedule.close()
        for supervisor in self._supervisors:
            supervisor.interrupt()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _make_supervisor(self, observe: Callable[[str, float], None]) -> RasterSupervisor:
        return RasterSupervisor(
            self._schedule,
            self._deaths,
            limits=self._limits,
            observe=observe,
            on_failed_start=self._fail_if_nobody_is_left,
        )

    def _fail_if_nobody_is_left(self) -> None:
        if not any(supervisor.is_healthy for supervisor in self._supervisors):
            self._schedule.fail_all(not_ready)

    def _require_alive(self) -> None:
        if self._schedule.is_closed:
            raise draining()
        if not self.is_alive:
            raise not_ready()

    async def _await(self, request: RasterRequest) -> list[DocumentOutline]:
        expiry = asyncio.get_running_loop().call_later(self._limits.queue_seconds, self._schedule.expire, request)
        try:
            return await asyncio.wrap_future(request.future)
        finally:
            expiry.cancel()
            self._schedule.withdraw(request)
