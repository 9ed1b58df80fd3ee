"""One request's way through the raster pool: documents are opened first, then the pages chosen from them are rendered.

Pure bookkeeping, called under the schedule's lock. Each task has a future of its own, and tasks begin in the order of their
documents and pages. After a failure no further task begins, so the failure with the lowest position is always among those
that began, whichever worker was faster. A request that skips unusable documents goes on without the document or the page.
"""

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from model.pages.image import LONGEST_PAGE_EDGE
from model.pages.text_page_format import TextPageFormat
from service.errors import ServiceError, is_of_document
from service.raster.page import DocumentOutline, Kind
from service.raster.process import RasterPage


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterDocument:
    """A document's bytes, to be opened and rendered."""

    index: int | None  # in the query's documents, for errors; None: it is in no query
    data: bytes | bytearray  # not changed afterwards
    sha256: str  # of `data`, hex
    kind: Kind  # by the first bytes of `data`
    outline: DocumentOutline | None = None  # None: the document must be opened to learn it
    text_page: TextPageFormat | None = None  # of a text; None: the default
    longest_edge: int = LONGEST_PAGE_EDGE  # of its pages, in pixels; at most LONGEST_VIEW_EDGE


class DocumentState:
    """The pool's knowledge of one document of a request. `key` names the document in the worker processes."""

    _keys = itertools.count(1)

    def __init__(self, document: RasterDocument) -> None:
        self.document = document
        self.outline = document.outline
        self.error: ServiceError | None = None  # for which the document is skipped
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
    number: int | None  # 1-based
    result: "Future[Any]"  # the DocumentOutline or the RasterPage; cancelled where the task is dropped


class RasterRequest:
    """The tasks of one request. It is over when all of them have ended, after a failure or not, or when it is abandoned."""

    def __init__(
        self,
        documents: Sequence[RasterDocument],
        *,
        share_id: str = "",
        is_background: bool = False,
        skips_unusable: bool = False,
    ) -> None:
        """share_id: of the caller, who has one fair share of the workers with all of its requests."""
        self.share_id = share_id
        self.states = [DocumentState(document) for document in documents]
        self.is_background = is_background
        self._skips_unusable = skips_unusable
        # Its share of the bounds of the queue.
        self.byte_count = 0 if is_background else sum(len(document.data) for document in documents)
        self.running = 0
        self.has_started = False
        self.is_over = False
        self._tasks: deque[RasterTask] = deque()  # not begun
        self._unresolved: dict[Future[Any], None] = {}  # results of the tasks in their order, without the done ones
        self._is_complete = False  # no task will be added
        self._reason: ServiceError | None = None  # for which it was abandoned
        self.openings: list[Future[DocumentOutline]] = [
            self._add_task(state, None) for state in self.states if state.outline is None
        ]

    def add_pages(self, numbers_by_document: Sequence[Sequence[int]]) -> list[Future[RasterPage]]:
        """Render these pages, which may be none. Called once, when all outlines are known.

        Raises: ServiceError, where the request was abandoned meanwhile.
        """
        if self._reason is not None:
            raise self._reason
        pages: list[Future[RasterPage]] = []
        for state, numbers in zip(self.states, numbers_by_document, strict=True):
            state.pages_left = len(numbers)
            pages += [self._add_task(state, number) for number in numbers]
        self._is_complete = True
        self._settle()
        return pages

    @property
    def waiting_tasks(self) -> int:
        """Tasks that have not begun."""
        return len(self._tasks)

    def take(self) -> RasterTask | None:
        """The next task, which the caller hands back by `finished` or `failed`."""
        if not self._tasks:
            return None
        self.has_started = True
        self.running += 1
        return self._tasks.popleft()

    def finished(self, task: RasterTask, result: DocumentOutline | RasterPage) -> None:
        self.running -= 1
        if isinstance(result, DocumentOutline):
            task.state.outline = result
        else:
            task.state.pages_left -= 1
        if self._resolves(task):
            task.result.set_result(result)
        self._settle()

    def failed(self, task: RasterTask, error: ServiceError) -> None:
        """Drop the tasks that have not begun; those that have begun go on, so that the same request gets the same error.

        A request that skips drops nothing for an error about the document or the page alone.
        """
        self.running -= 1
        is_skipped = self._skips_unusable and is_of_document(error)
        if is_skipped and task.number is None:
            task.state.error = error
        elif is_skipped:
            task.state.pages_left -= 1
        if self._resolves(task):
            task.result.set_exception(error)
        if not is_skipped:
            self._drop_tasks()
        self._settle()

    def abandon(self, reason: ServiceError | None = None) -> None:
        """End the request. The first task without a result fails for the reason; None: no one awaits it any longer."""
        if self.is_over:
            return
        self.is_over = True
        self._reason = reason
        self._tasks.clear()
        for result in self._unresolved:
            if reason is None:
                result.cancel()
            elif result.set_running_or_notify_cancel():
                result.set_exception(reason)
                reason = None  # the others are cancelled
        self._unresolved.clear()

    def _drop_tasks(self) -> None:
        for dropped in self._tasks:
            self._unresolved.pop(dropped.result)
            dropped.result.cancel()
        self._tasks.clear()
        self._is_complete = True

    def _add_task(self, state: DocumentState, number: int | None) -> "Future[Any]":
        task = RasterTask(request=self, state=state, number=number, result=Future())
        self._tasks.append(task)
        self._unresolved[task.result] = None
        return task.result

    def _resolves(self, task: RasterTask) -> bool:
        """Whether the end of this task is still awaited. Drops the result: the sender holds the pages, not the request."""
        self._unresolved.pop(task.result, None)
        return not self.is_over and task.result.set_running_or_notify_cancel()

    def _settle(self) -> None:
        if self._is_complete and not self.running and not self._tasks:
            self.is_over = True
