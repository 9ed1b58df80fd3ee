"""The order in which raster workers get tasks: round robin over requests, task by task, in a bounded and closable queue.

Background requests yield to live ones: they get a task only where no live request has one, and never the last idle worker of
several. They do not count in the bounds of the queue; their sender limits their number.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from service.errors import OverloadedError, ServiceError, UnavailableError
from service.raster.page import DocumentOutline
from service.raster.process import RasterPage
from service.raster.request import RasterRequest, RasterTask

_LONGEST_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The next orders for a worker: close the `stale` documents, then do the task, if there is one."""

    task: RasterTask | None
    stale: tuple[int, ...]


class RasterSchedule:
    """Thread-safe. While `is_storm` returns True, a request may occupy only half of the `workers`."""

    def __init__(
        self, *, workers: int, queue_requests: int, queue_bytes: int, is_storm: Callable[[], bool] = lambda: False
    ) -> None:
        self._workers = workers
        self._queue_requests = queue_requests
        self._queue_bytes = queue_bytes
        self._is_storm = is_storm
        self._changed = threading.Condition()
        self._live: deque[RasterRequest] = deque()
        self._background: deque[RasterRequest] = deque()
        self._keys: set[int] = set()  # of documents that have pages left: workers forget all others
        self._byte_count = 0
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def waiting_requests(self) -> int:
        """Unfinished live requests beyond those that every worker could be busy with."""
        return max(0, len(self._live) - self._workers)

    def admit(self, request: RasterRequest) -> None:
        """Raises: OverloadedError when the queue is full, UnavailableError when it is closed."""
        with self._changed:
            if self._is_closed:
                raise draining()
            if request.is_background:
                self._background.append(request)
            else:
                self._require_room(request)
                self._live.append(request)
            self._byte_count += request.byte_count
            self._keys.update(state.key for state in request.states)
            self._changed.notify_all()

    def take(self, held: Collection[int]) -> Turn | None:
        """Block until there are orders for a worker that holds these documents open. None: the schedule is closed."""
        with self._changed:
            while not self._is_closed:
                task = self._next_task()
                stale = tuple(key for key in held if key not in self._keys)
                if task or stale:
                    return Turn(task=task, stale=stale)
                self._changed.wait()
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
                        retry_after_seconds=self._retry_after_seconds(),
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
        has_full_queue = self.waiting_requests >= self._queue_requests and len(self._live) >= self._workers
        byte_count = self._byte_count + request.byte_count
        if has_full_queue or (self._live and byte_count > self._queue_bytes):
            raise OverloadedError(
                "overloaded",
                f"{len(self._live)} requests with {self._byte_count} bytes of documents are being rastered, at most "
                f"{self._workers + self._queue_requests} with {self._queue_bytes} bytes are accepted. Send it again later.",
                retry_after_seconds=self._retry_after_seconds(),
            )

    def _next_task(self) -> RasterTask | None:
        share = max(1, self._workers // 2) if self._is_storm() else self._workers
        if task := _rotate_to_task(self._live, share):
            return task
        if sum(request.running for request in self._background) < max(1, self._workers - 1):
            return _rotate_to_task(self._background, share)
        return None

    def _end(self, task: RasterTask) -> None:
        if task.number is not None and not task.state.pages_left:
            self._keys.discard(task.state.key)
        self._settle(task.request)

    def _settle(self, request: RasterRequest) -> None:
        requests = self._background if request.is_background else self._live
        if request.is_over and request in requests:
            requests.remove(request)
            self._keys.difference_update(state.key for state in request.states)
            self._byte_count -= request.byte_count
        self._changed.notify_all()

    def _fail_all(self, make_error: Callable[[], ServiceError]) -> None:
        for request in (*self._live, *self._background):
            request.abandon(make_error())  # one each: an exception collects a traceback wherever it is raised
            self._settle(request)
        self._changed.notify_all()

    def _retry_after_seconds(self) -> int:
        return min(_LONGEST_RETRY_SECONDS, 1 + self.waiting_requests // (8 * self._workers))


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
        retry_after_seconds=_LONGEST_RETRY_SECONDS,
    )


def not_ready() -> UnavailableError:
    return UnavailableError(
        "not_ready",
        "The document workers are not running. Send the request again later.",
        retry_after_seconds=_LONGEST_RETRY_SECONDS,
    )
