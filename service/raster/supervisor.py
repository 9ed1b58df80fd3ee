"""The life of one worker slot: a thread that starts a child, feeds it tasks, buries it, and starts the next one.

Knows nothing of fairness or the event loop. One thread per child, because the kernel kills a child when the thread that
started it ends, and because blocking on a socket with a deadline needs no polling.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import InternalError, ServiceError
from service.raster.deaths import DeathRecord
from service.raster.failures import client_error, client_error_of_code, code_of_death
from service.raster.limits import RasterLimits
from service.raster.page import SINGLE_IMAGE, DocumentOutline, RasterFailure
from service.raster.process import ProcessDied, ProcessSettings, RasterProcess, RenderedPage
from service.raster.request import DocumentState, RasterPage, RasterTask
from service.raster.schedule import RasterSchedule, Turn, not_ready

_HELLO_SECONDS = 30.0
_FIRST_RESTART_DELAY_SECONDS = 0.5
_LONGEST_RESTART_DELAY_SECONDS = 30.0
_MEMORY_CODES = frozenset({"page_memory", "page_degraded"})

_log = logging.getLogger(__name__)


class RasterSupervisor:
    """`run` is the body of a thread. It ends when the schedule is closed, and then nothing of the child is left."""

    def __init__(
        self,
        schedule: RasterSchedule,
        deaths: DeathRecord,
        *,
        limits: RasterLimits,
        observe: Callable[[str, float], None],
        on_failed_start: Callable[[], None],
    ) -> None:
        self.has_tried_to_start = threading.Event()
        self.is_healthy = False
        self._schedule = schedule
        self._deaths = deaths
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
                self._do(turn)
        finally:
            self._retire_process()
            self.is_healthy = False
            self.has_tried_to_start.set()

    def interrupt(self) -> None:
        """Called by another thread when the pool closes: what the child is doing is no longer wanted."""
        if process := self._process:
            process.interrupt()

    @property
    def _child(self) -> RasterProcess:
        assert self._process, "the slot has a process between _ensure_process and _retire_process"
        return self._process

    def _ensure_process(self) -> bool:
        """Start a child if there is none, however often that takes. False: the pool is closed."""
        delay = _FIRST_RESTART_DELAY_SECONDS
        while not self._schedule.is_closed:
            if self._process or self._start_process():
                return True
            self._schedule.wait_until_closed(seconds=delay)
            delay = min(2 * delay, _LONGEST_RESTART_DELAY_SECONDS)
        return False

    def _start_process(self) -> bool:
        try:
            self._process = RasterProcess(self._process_settings())
            if self._schedule.is_closed:  # `interrupt` may have come before there was anything to interrupt
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

    def _process_settings(self) -> ProcessSettings:
        return ProcessSettings(
            memory_bytes=self._limits.worker_memory_bytes,
            cpu_seconds=2 * self._limits.document_seconds,
            max_image_pixels=self._limits.max_image_pixels,
            max_image_edge=self._limits.max_image_edge,
        )

    def _retire_process(self) -> None:
        process, self._process = self._process, None
        if process:
            process.close()

    def _do(self, turn: Turn) -> None:
        self._bury_if_dead()
        self._forget(turn.stale)
        if turn.task:
            self._finish(turn.task)
        if self._process and self._is_worn_out(self._process):
            self._retire_process()

    def _bury_if_dead(self) -> None:
        """A child that died between two tasks died of no document: the next one must not be blamed."""
        if not self._child.is_running:
            self._bury(ProcessDied("crash"))

    def _bury(self, death: ProcessDied) -> None:
        self._retire_process()
        if not self._schedule.is_closed:
            self._deaths.record(death.cause)

    def _forget(self, stale: tuple[int, ...]) -> None:
        if not self._process:
            return
        held = self._process.open_documents
        try:
            self._process.forget(tuple(key for key in stale if key in held), seconds=self._limits.open_seconds)
        except ProcessDied as death:
            self._bury(death)

    def _is_worn_out(self, process: RasterProcess) -> bool:
        return (
            process.documents_opened >= self._limits.recycle_documents
            or process.rss_bytes > self._limits.recycle_rss_bytes
        )

    def _finish(self, task: RasterTask) -> None:
        """Every way out of here hands the task back, or its request would wait for ever."""
        try:
            page = self._perform(task)
            if page and not task.request.is_over:
                task.request.deliver(page)
        except ServiceError as error:
            self._schedule.failed(task, error)
        except Exception:  # noqa: BLE001 (logged, and told to the request's future)
            _log.exception("raster task failed")
            self._retire_process()
            self._schedule.failed(task, InternalError("internal_error", "The document could not be processed."))
        else:
            if page:
                self._schedule.delivered(task)
            else:
                self._schedule.opened(task)

    def _perform(self, task: RasterTask) -> RasterPage | None:
        """Raises: ServiceError."""
        try:
            self._refuse_known_killer(task)
            return self._with_fair_memory(task)
        except RasterFailure as failure:
            raise client_error(failure, task, limits=self._limits) from None
        except ProcessDied as death:
            code = code_of_death(death)
            self._bury(death)
            if not self._schedule.is_closed:
                self._deaths.blame(task.state.document.sha256, code=code)
            raise client_error_of_code(code, task, limits=self._limits) from None

    def _refuse_known_killer(self, task: RasterTask) -> None:
        if code := self._deaths.verdict_on(task.state.document.sha256):
            raise client_error_of_code(code, task, limits=self._limits)

    def _with_fair_memory(self, task: RasterTask) -> RasterPage | None:
        """A verdict of too little memory counts only from a child that has seen nothing but this document: what
        others' documents left behind must not decide over it."""
        if not self._process and not self._start_process():
            raise not_ready()
        try:
            return self._raster(task)
        except RasterFailure as failure:
            if failure.code not in _MEMORY_CODES or self._child.documents_opened <= 1:
                raise
        self._retire_process()
        if not self._start_process():
            raise not_ready()
        return self._raster(task)

    def _raster(self, task: RasterTask) -> RasterPage | None:
        if task.number is None:
            task.state.outline = self._open(task)
            return None
        if task.state.document.outline != SINGLE_IMAGE and task.state.key not in self._child.open_documents:
            self._open(task)
        return self._render(task, number=task.number)

    def _open(self, task: RasterTask) -> DocumentOutline:
        state = task.state
        with self._within(self._limits.open_seconds, task) as seconds:
            return self._child.open(state.key, state.document.data, kind=state.document.kind, seconds=seconds)

    def _render(self, task: RasterTask, *, number: int) -> RasterPage:
        state = task.state
        began = time.perf_counter()
        with self._within(self._limits.page_seconds, task) as seconds:
            page = self._call_for_page(state, number, seconds)
        elapsed = time.perf_counter() - began
        self._observe("render" if state.document.kind == "pdf" else "decode", elapsed)
        return RasterPage(
            document_index=state.document.index,
            number=number,
            pixels=page.pixels,
            degraded=page.degraded,
            seconds=elapsed,
            began_ns=page.began_ns,
            ended_ns=page.ended_ns,
        )

    def _call_for_page(self, state: DocumentState, number: int, seconds: float) -> RenderedPage:
        if state.document.outline == SINGLE_IMAGE:
            return self._child.render_only_page(state.document.data, kind=state.document.kind, seconds=seconds)
        return self._child.render(state.key, number, seconds=seconds)

    @contextmanager
    def _within(self, seconds: float, task: RasterTask) -> Iterator[float]:
        """The time a call may take: its own limit, or what is left of the document's."""
        left = self._limits.document_seconds - task.state.seconds_used
        if left <= 0:
            raise client_error_of_code("page_timeout", task, limits=self._limits)
        began = time.monotonic()
        try:
            yield min(seconds, left)
        finally:
            task.state.spend(time.monotonic() - began)
