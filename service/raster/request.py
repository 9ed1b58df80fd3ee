"""One request's way through the raster pool: open every document, resolve the pages, render them, first failure wins.

Pure bookkeeping, called under the schedule's lock; knows neither processes nor threads nor the event loop.
"""

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.errors import PageOutOfRangeError, ServiceError, TooLargeError
from service.page_selection import PageSelection

Kind = Literal["pdf", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterDocument:
    data: bytes | bytearray  # not changed afterwards
    kind: Kind  # decided by magic bytes by the caller
    pages: PageSelection | None = None  # None: all. Of a single image only page 1 exists.


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterPage:
    document_index: int
    number: int | None  # 1-based; None for a single image (neither PDF nor multi-frame TIFF)
    pixels: np.ndarray  # uint8 (height, width, 3), longest edge at most 1024, owned
    degraded: bool  # the engine warned that content is missing from the page
    document_sha256: str


class DocumentState:
    """What the pool has learnt about one document of a request. `key` names it in the worker processes."""

    _keys = itertools.count(1)

    def __init__(self, document: RasterDocument, *, index: int) -> None:
        self.document = document
        self.index = index
        self.key = next(self._keys)
        self.sha256 = ""
        self.page_count = 0
        self.is_paged = False
        self.pages_left = 0
        self.seconds_used = 0.0
        self._lock = threading.Lock()

    def spend(self, seconds: float) -> None:
        """Several workers may share a long document."""
        with self._lock:
            self.seconds_used += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterTask:
    """A piece of work for one worker: count the pages of a document (`number` None) or render one page."""

    request: "RasterRequest"
    state: DocumentState
    number: int | None
    position: int  # among the request's tasks of the same stage: of several failures the lowest is reported


class RasterRequest:
    """`future` gets the pages in document order, then selection order, or the failure with the lowest position."""

    def __init__(self, documents: Sequence[RasterDocument], *, max_pages: int) -> None:
        self.future: Future[list[RasterPage]] = Future()
        self.future.set_running_or_notify_cancel()  # from here on only this object resolves it
        self.states = [DocumentState(document, index=index) for index, document in enumerate(documents)]
        self.byte_count = sum(len(document.data) for document in documents)
        self.running = 0
        self.has_started = False
        self.is_over = False
        self._max_pages = max_pages
        self._uncounted = len(self.states)
        self._tasks = deque(
            RasterTask(request=self, state=state, number=None, position=state.index) for state in self.states
        )
        self._pages: dict[int, RasterPage] = {}
        self._page_total = 0
        self._failures: list[tuple[int, ServiceError]] = []

    def take(self) -> RasterTask | None:
        """The next task, which the caller hands back by `counted`, `rendered` or `failed`."""
        if not self._tasks:
            return None
        self.has_started = True
        self.running += 1
        return self._tasks.popleft()

    def counted(self) -> None:
        """A document was opened, and its state filled in."""
        self.running -= 1
        self._uncounted -= 1
        if not self._uncounted and not self._failures and not self.is_over:
            self._plan_pages()
        self._settle()

    def rendered(self, task: RasterTask, page: RasterPage) -> None:
        self.running -= 1
        self._pages[task.position] = page
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
        self._pages.clear()
        if not self.is_over and error is not None:
            self.future.set_exception(error)
        self.is_over = True

    def _plan_pages(self) -> None:
        spans = []
        for state in self.states:
            try:
                spans.append(_selected_spans(state))
            except PageOutOfRangeError as error:
                return self._fail(state.index, error)
        total = sum(len(span) for document_spans in spans for span in document_spans)
        if total > self._max_pages:
            return self._fail(0, _too_many_pages(total, self._max_pages))
        self._page_total = total
        for state, document_spans in zip(self.states, spans, strict=True):
            state.pages_left = sum(map(len, document_spans))
        numbers = (
            (state, number)
            for state, document_spans in zip(self.states, spans, strict=True)
            for span in document_spans
            for number in span
        )
        self._tasks.extend(
            RasterTask(request=self, state=state, number=number, position=position)
            for position, (state, number) in enumerate(numbers)
        )

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
            self.future.set_result([self._pages[position] for position in range(self._page_total)])
        self._pages.clear()


def _selected_spans(state: DocumentState) -> tuple[range, ...]:
    if state.document.pages is None:
        return (range(1, state.page_count + 1),)
    try:
        return state.document.pages.spans(state.page_count)
    except PageOutOfRangeError as error:
        message = f"documents[{state.index}]: {error.message}"
        raise PageOutOfRangeError(error.code, message, param="pages", document_index=state.index) from error


def _too_many_pages(total: int, limit: int) -> TooLargeError:
    return TooLargeError(
        "too_many_pages",
        f"documents: {total} pages are selected, at most {limit} are accepted; select fewer, or send several requests.",
    )
