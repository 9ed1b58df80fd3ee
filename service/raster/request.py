"""One request's way through the raster pool: open what is not known yet, plan the pages, render them, first failure wins.

Pure bookkeeping, called under the schedule's lock; knows neither processes nor threads nor the event loop, nor what the pages
are wanted for.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.errors import ServiceError
from service.raster.page import DocumentOutline

Kind = Literal["pdf", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterDocument:
    index: int  # in the client's request, for messages
    data: bytes | bytearray  # not changed afterwards
    sha256: str  # of `data`, hex
    kind: Kind  # decided by magic bytes by the caller
    outline: DocumentOutline | None = None  # None: it must be opened to be known


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterPage:
    document_index: int
    number: int  # 1-based
    pixels: np.ndarray  # uint8 (height, width, 3), longest edge at most 1024, owned
    degraded: bool  # the engine warned that content is missing from the page
    seconds: float  # in the worker process
    began_ns: int  # there, in `time.time_ns`, which one host's processes share
    ended_ns: int


Plan = Callable[[Sequence[DocumentOutline]], Sequence[Sequence[int]]]
"""The outlines of all documents to the page numbers to render of each. Called once, under the schedule's lock; may raise
ServiceError."""

Deliver = Callable[[RasterPage], None]
"""Takes a page as soon as there is one, in the thread that got it; pages come in any order, and several at a time. A
ServiceError is a failure of that page."""


class DocumentState:
    """What the pool has learnt about one document of a request. `key` names it in the worker processes."""

    _keys = itertools.count(1)

    def __init__(self, document: RasterDocument) -> None:
        self.document = document
        self.outline = document.outline
        self.key = next(self._keys)
        self.pages_left = 0
        self.seconds_used = 0.0
        self._lock = threading.Lock()

    @property
    def is_paged(self) -> bool:
        return self.outline is not None and self.outline.is_paged

    def spend(self, seconds: float) -> None:
        """Several workers may share a long document."""
        with self._lock:
            self.seconds_used += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterTask:
    """A piece of work for one worker: open a document (`number` None) or render one page."""

    request: "RasterRequest"
    state: DocumentState
    number: int | None
    position: int  # among the request's tasks of the same stage: of several failures the lowest is reported


class RasterRequest:
    """`future` gets the documents' outlines when all pages are delivered, or the failure with the lowest position."""

    def __init__(
        self, documents: Sequence[RasterDocument], *, plan: Plan, deliver: Deliver, is_background: bool = False
    ) -> None:
        """Raises: what `plan` raises, where it can be called at once."""
        self.future: Future[list[DocumentOutline]] = Future()
        self.future.set_running_or_notify_cancel()  # from here on only this object resolves it
        self.states = [DocumentState(document) for document in documents]
        self.is_background = is_background
        # What it takes up of the bounds of the queue.
        self.byte_count = 0 if is_background else sum(len(document.data) for document in documents)
        self.deliver = deliver
        self.running = 0
        self.has_started = False
        self.is_over = False
        self._plan = plan
        unknown = [state for state in self.states if state.outline is None]
        self._unknown = len(unknown)
        self._failures: list[tuple[int, ServiceError]] = []
        self._tasks = deque(
            RasterTask(request=self, state=state, number=None, position=position)
            for position, state in enumerate(unknown)
        )
        if not unknown:
            self._plan_pages()
            self._settle()

    def take(self) -> RasterTask | None:
        """The next task, which the caller hands back by `opened`, `delivered` or `failed`."""
        if not self._tasks:
            return None
        self.has_started = True
        self.running += 1
        return self._tasks.popleft()

    def opened(self) -> None:
        """A document was opened, and its state filled in."""
        self.running -= 1
        self._unknown -= 1
        if not self._unknown and not self._failures and not self.is_over:
            try:
                self._plan_pages()
            except ServiceError as error:
                self._fail(0, error)
        self._settle()

    def delivered(self, task: RasterTask) -> None:
        self.running -= 1
        task.state.pages_left -= 1
        self._settle()

    def failed(self, task: RasterTask, error: ServiceError) -> None:
        """Drops what has not begun. What has begun is waited for, so that the same request gets the same answer."""
        self.running -= 1
        self._fail(task.position, error)
        self._settle()

    def abandon(self, error: ServiceError | None = None) -> None:
        """Nobody waits any longer (no error), or nobody should."""
        self._tasks.clear()
        if not self.is_over and error is not None:
            self.future.set_exception(error)
        self.is_over = True

    def _plan_pages(self) -> None:
        numbers_by_document = self._plan(self._outlines())
        for state, numbers in zip(self.states, numbers_by_document, strict=True):
            state.pages_left = len(numbers)
            for number in numbers:
                task = RasterTask(request=self, state=state, number=number, position=len(self._tasks))
                self._tasks.append(task)

    def _outlines(self) -> list[DocumentOutline]:
        return [state.outline for state in self.states if state.outline is not None]

    def _fail(self, position: int, error: ServiceError) -> None:
        self._failures.append((position, error))
        self._tasks.clear()

    def _settle(self) -> None:
        if self.running or self._tasks or self.is_over:
            return
        self.is_over = True
        if self._failures:
            self.future.set_exception(min(self._failures, key=lambda failure: failure[0])[1])
        else:
            self.future.set_result(self._outlines())
