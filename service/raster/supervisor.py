"""One worker slot of the pool: a thread that runs tasks in a child process and replaces the child when it dies.

One thread per child, because the kernel kills a child when the thread that started it ends, and because blocking on a socket
with a deadline needs no polling.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.degraded_reason import DegradedReason
from service.errors import InternalError, ServiceError
from service.raster.crash_history import CrashHistory
from service.raster.failures import client_error, client_error_of_code, code_of_death
from service.raster.limits import RasterLimits
from service.raster.page import SINGLE_PAGE_OUTLINE, DocumentOutline, RasterFailure
from service.raster.process import ProcessDied, RasterPage, RasterProcess
from service.raster.request import RasterTask
from service.raster.schedule import RasterSchedule, not_ready

_HELLO_SECONDS = 30.0
_FIRST_RESTART_DELAY_SECONDS = 0.5
_LONGEST_RESTART_DELAY_SECONDS = 30.0
_MEMORY_CODES = frozenset({"page_memory", "page_degraded"})

_log = logging.getLogger(__name__)


class RasterSupervisor:
    """`run` is the body of a thread. It ends when the schedule is closed, after the child has been reaped."""

    def __init__(
        self,
        schedule: RasterSchedule,
        crashes: CrashHistory,
        *,
        limits: RasterLimits,
        observe: Callable[[str, float], None],
        on_failed_start: Callable[[], None],
    ) -> None:
        self.has_tried_to_start = threading.Event()
        self.is_healthy = False
        self._schedule = schedule
        self._crashes = crashes
        self._limits = limits
        self._observe = observe
        self._on_failed_start = on_failed_start
        self._process: RasterProcess | None = None

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process else None

    def run(self) -> None:
        try:
            while self._ensure_process() and (turn := self._schedule.take(self._child.open_documents)):
                self._forget(turn.stale)
                if turn.task:
                    self._finish(turn.task)
                if (process := self._process) and (
                    process.documents_opened >= self._limits.recycle_documents
                    or process.rss_bytes > self._limits.recycle_rss_bytes
                ):
                    self._retire_process()
        finally:
            self._retire_process()
            self.is_healthy = False
            self.has_tried_to_start.set()

    def interrupt(self) -> None:
        """Kill the child from another thread, when the pool closes."""
        if process := self._process:
            process.interrupt()

    @property
    def _child(self) -> RasterProcess:
        assert self._process, "the slot has a process between _ensure_process and _retire_process"
        return self._process

    def _ensure_process(self) -> bool:
        """Start a child if there is none, and retry until one runs. False: the pool is closed."""
        delay = _FIRST_RESTART_DELAY_SECONDS
        while not self._schedule.is_closed:
            if self._process or self._start_process():
                return True
            self._schedule.wait_until_closed(seconds=delay)
            delay = min(2 * delay, _LONGEST_RESTART_DELAY_SECONDS)
        return False

    def _start_process(self) -> bool:
        try:
            self._process = RasterProcess(self._limits.worker_settings)
            if self._schedule.is_closed:  # `interrupt` may have come before there was a process to kill
                self.interrupt()
            self._process.await_hello(seconds=_HELLO_SECONDS)
        except (OSError, ProcessDied) as error:
            self._retire_process()
            if not self._schedule.is_closed:
                _log.error("raster worker does not start: %s", error)
        self.is_healthy = self._process is not None
        self.has_tried_to_start.set()
        if not self.is_healthy:
            self._on_failed_start()
        return self.is_healthy

    def _retire_process(self) -> None:
        process, self._process = self._process, None
        if process:
            process.close()

    def _reap(self, death: ProcessDied) -> None:
        self._retire_process()
        if not self._schedule.is_closed:
            self._crashes.record_death(death.cause)

    def _forget(self, stale: tuple[int, ...]) -> None:
        """Close these documents in the child, or reap a child that has died."""
        if not self._child.is_running:
            # It died between two tasks, so the document of the next one must not be blamed.
            self._reap(ProcessDied("crash"))
            return
        try:
            self._child.forget(stale, seconds=self._limits.open_seconds)
        except ProcessDied as death:
            self._reap(death)

    def _finish(self, task: RasterTask) -> None:
        """Run the task and report its end to the schedule in every case: otherwise its request would never end."""
        try:
            result = self._perform(task)
        except ServiceError as error:
            self._schedule.failed(task, error)
        except Exception:  # noqa: BLE001 (logged, and the request fails)
            _log.exception("raster task failed")
            self._retire_process()
            self._schedule.failed(task, InternalError("internal_error", "The document could not be processed."))
        else:
            self._schedule.finished(task, result)

    def _perform(self, task: RasterTask) -> DocumentOutline | RasterPage:
        """Raises: ServiceError."""
        sha256 = task.state.document.sha256
        if code := self._crashes.quarantine_code(sha256):
            raise client_error_of_code(code, task, limits=self._limits)
        try:
            return self._retry_in_fresh_process(task)
        except RasterFailure as failure:
            raise client_error(failure, task, limits=self._limits) from None
        except ProcessDied as death:
            code = code_of_death(death)
            self._reap(death)
            if not self._schedule.is_closed:
                self._crashes.record_crash(sha256, code=code)
            raise client_error_of_code(code, task, limits=self._limits) from None

    def _retry_in_fresh_process(self, task: RasterTask) -> DocumentOutline | RasterPage:
        """Run the task, and once more in a new child where a used one ran short of memory.

        Only a child that has opened this document alone may refuse it for its need of memory: the remains of other
        documents must not decide that.
        """
        if not self._process and not self._start_process():
            raise not_ready()
        try:
            result = self._run_task(task)
        except RasterFailure as failure:
            if failure.code not in _MEMORY_CODES or self._child.documents_opened <= 1:
                raise
        else:
            is_short = isinstance(result, RasterPage) and DegradedReason.MEMORY in result.degraded_reasons
            if not is_short or self._child.documents_opened <= 1:
                return result
        self._retire_process()
        if not self._start_process():
            raise not_ready()
        return self._run_task(task)

    def _run_task(self, task: RasterTask) -> DocumentOutline | RasterPage:
        state, number = task.state, task.number
        if number is None:
            return self._open(task)
        has_single_page = state.document.outline == SINGLE_PAGE_OUTLINE
        if not has_single_page and state.key not in self._child.open_documents:
            self._open(task)
        with self._within(self._limits.page_seconds, task) as seconds:
            if has_single_page:
                page = self._child.render_only_page(
                    state.document.data,
                    kind=state.document.kind,
                    text_page=state.document.text_page,
                    longest_edge=state.document.longest_edge,
                    seconds=seconds,
                )
            else:
                page = self._child.render(state.key, number, longest_edge=state.document.longest_edge, seconds=seconds)
        self._observe(state.document.kind.stage, page.seconds)
        return page

    def _open(self, task: RasterTask) -> DocumentOutline:
        state = task.state
        with self._within(self._limits.open_seconds, task) as seconds:
            document = state.document
            return self._child.open(
                state.key, document.data, kind=document.kind, text_page=document.text_page, seconds=seconds
            )

    @contextmanager
    def _within(self, seconds: float, task: RasterTask) -> Iterator[float]:
        """The seconds that a call may take: its own limit, or the rest of the document's. Adds those that it took."""
        left = self._limits.document_seconds - task.state.seconds_used
        if left <= 0:
            raise client_error_of_code("page_timeout", task, limits=self._limits)
        began = time.monotonic()
        try:
            yield min(seconds, left)
        finally:
            task.state.spend(time.monotonic() - began)
