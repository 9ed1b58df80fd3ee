"""The order in which raster workers get tasks: callers take turns task by task, and so do the requests of each of them.

The queue is bounded, so that no caller can fill it for the others, and closable.

Background requests yield to live ones: they get a task only where no live request has one, and never the last idle worker of
several. They do not count in the bounds of the queue; their sender limits their number.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from service.errors import OverloadedError, ServiceError, UnavailableError
from service.fair_queue import finds_room
from service.host_gate import OPEN, GateState, HostGate
from service.raster.page import DocumentOutline
from service.raster.process import RasterPage
from service.raster.request import RasterRequest, RasterTask
from service.retry_after import retry_after

_RETRY_SECONDS_WITHOUT_WORKERS = 5
_PAGE_SECONDS_MEMORY = 0.9  # weight of the past in the mean time of a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The next orders for a worker: close the `stale` documents, then do the task, if there is one."""

    task: RasterTask | None
    stale: tuple[int, ...]


class RasterSchedule:
    """Thread-safe. While `is_storm` returns True, a request may occupy only half of the `workers`."""

    def __init__(
        self,
        *,
        workers: int,
        queue_requests: int,
        queue_bytes: int,
        is_storm: Callable[[], bool] = lambda: False,
        gate: HostGate | None = None,
    ) -> None:
        """gate: no task begins whose caller it keeps out."""
        self._workers = workers
        self._queue_requests = queue_requests
        self._queue_bytes = queue_bytes
        self._is_storm = is_storm
        self._gate = gate or HostGate()
        self._changed = threading.Condition()
        self._live: OrderedDict[str, deque[RasterRequest]] = OrderedDict()  # by caller, the next one to be served first
        self._live_count = 0
        self._page_seconds = 0.0  # of one worker
        self._background: deque[RasterRequest] = deque()
        self._keys: set[int] = set()  # of documents that have pages left: workers forget all others
        self._byte_count = 0
        self._is_closed = False
        self._gate.on_change(self._notify)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def waiting_requests(self) -> int:
        """Unfinished live requests beyond those that every worker could be busy with."""
        return max(0, self._live_count - self._workers)

    def admit(self, request: RasterRequest) -> None:
        """Raises: OverloadedError when the queue is full, UnavailableError when it is closed."""
        with self._changed:
            if self._is_closed:
                raise draining()
            if request.is_background:
                self._background.append(request)
            else:
                self._require_room(request)
                self._live.setdefault(request.share_id, deque()).append(request)
                self._live_count += 1
            self._byte_count += request.byte_count
            self._keys.update(state.key for state in request.states)
            self._changed.notify_all()

    def take(self, held: Collection[int]) -> Turn | None:
        """Block until there are orders for a worker that holds these documents open. None: the schedule is closed."""
        with self._changed:
            while not self._is_closed:
                state = self._gate.state()
                task = self._next_task(state)
                stale = tuple(key for key in held if key not in self._keys)
                if task or stale:
                    return Turn(task=task, stale=stale)
                self._changed.wait(timeout=state.seconds)
        return None

    def add_pages(
        self, request: RasterRequest, numbers_by_document: Sequence[Sequence[int]]
    ) -> list[Future[RasterPage]]:
        """Raises: ServiceError, where the request was abandoned meanwhile."""
        with self._changed:
            pages = request.add_pages(numbers_by_document)
            self._settle(request)
            return pages

    def finished(self, task: RasterTask, result: DocumentOutline | RasterPage) -> None:
        with self._changed:
            task.request.finished(task, result)
            if isinstance(result, RasterPage):
                self._record_page(result.seconds)
            self._end(task)

    def failed(self, task: RasterTask, error: ServiceError) -> None:
        with self._changed:
            task.request.failed(task, error)
            self._end(task)

    def withdraw(self, request: RasterRequest) -> None:
        """Drop the rest of a request that no one awaits any longer. Nothing happens to one that is over."""
        with self._changed:
            request.abandon()
            self._settle(request)

    def expire(self, request: RasterRequest) -> None:
        """Fail a live request of which no task has begun."""
        with self._changed:
            if not request.has_started and not request.is_background:
                request.abandon(
                    UnavailableError(
                        "queue_timeout",
                        "The request waited too long for a document worker. Send it again later.",
                        retry_after_seconds=self._retry_after_seconds(request.share_id),
                    )
                )
                self._settle(request)

    def fail_all(self, make_error: Callable[[], ServiceError]) -> None:
        with self._changed:
            self._fail_all(make_error)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._fail_all(draining)

    def wait_until_closed(self, *, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, timeout=seconds)

    def _require_room(self, request: RasterRequest) -> None:
        own = self._live.get(request.share_id, ())
        callers = len(self._live)
        most = self._workers + self._queue_requests
        has_place = finds_room(1, own=len(own), waiting=self._live_count, limit=most, callers=callers)
        has_memory = not self._live or finds_room(
            request.byte_count,
            own=sum(other.byte_count for other in own),
            waiting=self._byte_count,
            limit=self._queue_bytes,
            callers=callers,
        )
        if not (has_place and has_memory):
            raise OverloadedError(
                "overloaded",
                f"{self._live_count} requests with {self._byte_count} bytes of documents are being rastered, at most "
                f"{most} with {self._queue_bytes} bytes are accepted. Send it again later.",
                retry_after_seconds=self._retry_after_seconds(request.share_id),
            )

    def _next_task(self, state: GateState = OPEN) -> RasterTask | None:
        share = max(1, self._workers // 2) if self._is_storm() else self._workers
        for share_id in tuple(self._live):
            if not state.keeps_out(share_id) and (task := _rotate_to_task(self._live[share_id], share)):
                self._live.move_to_end(share_id)
                return task
        if state is OPEN and sum(request.running for request in self._background) < max(1, self._workers - 1):
            return _rotate_to_task(self._background, share)
        return None

    def _end(self, task: RasterTask) -> None:
        if task.number is not None and not task.state.pages_left:
            self._keys.discard(task.state.key)
        self._settle(task.request)

    def _settle(self, request: RasterRequest) -> None:
        requests = self._background if request.is_background else self._live.get(request.share_id, deque())
        if request.is_over and request in requests:
            requests.remove(request)
            if not request.is_background:
                self._live_count -= 1
                if not requests:
                    del self._live[request.share_id]
            self._keys.difference_update(state.key for state in request.states)
            self._byte_count -= request.byte_count
        self._changed.notify_all()

    def _fail_all(self, make_error: Callable[[], ServiceError]) -> None:
        live = [request for requests in self._live.values() for request in requests]
        for request in (*live, *self._background):
            request.abandon(make_error())  # one each: an exception collects a traceback wherever it is raised
            self._settle(request)
        self._changed.notify_all()

    def _notify(self) -> None:
        if self._live or self._background:  # else no worker needs to wake up
            with self._changed:
                self._changed.notify_all()

    def _record_page(self, seconds: float) -> None:
        past = self._page_seconds
        self._page_seconds = _PAGE_SECONDS_MEMORY * past + (1 - _PAGE_SECONDS_MEMORY) * seconds if past else seconds

    def _retry_after_seconds(self, share_id: str) -> int:
        """By the tasks that this caller has waiting, the turns of the others in between, and the time of a page."""
        own = sum(request.waiting_tasks for request in self._live.get(share_id, ()))
        tasks = sum(min(own, sum(request.waiting_tasks for request in requests)) for requests in self._live.values())
        return retry_after(tasks * self._page_seconds / self._workers)


def _rotate_to_task(requests: deque[RasterRequest], share: int) -> RasterTask | None:
    """The next task of the first request that has one and fewer than `share` running."""
    for _ in range(len(requests)):
        request = requests[0]
        requests.rotate(-1)
        if request.running < share and (task := request.take()):
            return task
    return None


def draining() -> UnavailableError:
    return UnavailableError(
        "draining",
        "The service is shutting down. Send the request to another instance.",
        retry_after_seconds=_RETRY_SECONDS_WITHOUT_WORKERS,
    )


def not_ready() -> UnavailableError:
    return UnavailableError(
        "not_ready",
        "The document workers are not running. Send the request again later.",
        retry_after_seconds=_RETRY_SECONDS_WITHOUT_WORKERS,
    )
