"""Threads that do the jobs of several callers in turn, by the time that the jobs take."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.fair_queue import FairQueue, Standing
from service.host_gate import GateState, HostGate

_MEMORY = 0.9  # weight of the past in the mean time of a job

Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    standing: Standing
    future: "Future[Any]"
    work: Callable[[], Any]
    expected_seconds: float = 0.0  # known when it begins


class FairThreads:
    """A pool of threads. Callers that submit many jobs wait for the threads longer; others do not wait behind those jobs.

    Of several threads one is kept for callers that have no job running. No executor of the standard library can leave a job
    in its queue and begin a later one, so the threads are its own.
    """

    def __init__(self, count: int, *, name: str, gate: HostGate | None = None) -> None:
        """name: the beginning of the threads' names. gate: no job begins whose caller it keeps out."""
        self._most_of_a_caller = max(1, count - 1)
        self._gate = gate or HostGate()
        self._changed = threading.Condition()  # and the lock of the fields below
        self._jobs: FairQueue[_Job] = FairQueue()
        self._running: Counter[str] = Counter()  # by share_id
        self._mean_seconds = 0.0
        self._is_shut_down = False
        self._gate.on_change(self._notify)
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True).start()

    @property
    def waiting_jobs(self) -> int:
        return len(self._jobs)

    def of(self, standing: Standing) -> Executor:
        """The threads as an executor of one caller. Only `shutdown` of the whole ends them."""
        return _Lane(self, standing)

    def shutdown(self) -> None:
        """Refuse further jobs and cancel those that have not begun. Does not wait for the others."""
        with self._changed:
            self._is_shut_down = True
            while self._jobs:
                self._jobs.pop(cost=0.0).future.cancel()
            self._changed.notify_all()

    def submit(self, standing: Standing, work: Callable[[], Result]) -> "Future[Result]":
        """Raises: RuntimeError after `shutdown`."""
        job = _Job(standing=standing, future=Future(), work=work)
        with self._changed:
            if self._is_shut_down:
                raise RuntimeError("The threads were shut down.")
            self._jobs.push(job, standing, expected_cost=self._mean_seconds)
            self._changed.notify()
        return job.future

    def _run(self) -> None:
        """The body of each thread."""
        while job := self._take():
            started = time.perf_counter()
            if job.future.set_running_or_notify_cancel():
                _do(job)
            self._end(job, seconds=time.perf_counter() - started)
            del job  # what it holds is not kept until the next one

    def _take(self) -> _Job | None:
        """Block until there is a job that may begin. None: the threads were shut down."""
        with self._changed:
            while not self._is_shut_down:
                state = self._gate.state()
                share_id = self._jobs.next_caller(partial(self._may_begin, state))
                if share_id is not None:
                    self._running[share_id] += 1
                    job = self._jobs.pop(cost=self._mean_seconds, share_id=share_id)
                    job.expected_seconds = self._mean_seconds
                    return job
                self._changed.wait(timeout=state.seconds)
        return None

    def _may_begin(self, state: GateState, share_id: str) -> bool:
        return not state.keeps_out(share_id) and self._running[share_id] < self._most_of_a_caller

    def _end(self, job: _Job, *, seconds: float) -> None:
        with self._changed:
            self._running[job.standing.share_id] -= 1
            if not self._running[job.standing.share_id]:
                del self._running[job.standing.share_id]
            self._jobs.charge(job.standing, seconds - job.expected_seconds)
            self._mean_seconds = _MEMORY * self._mean_seconds + (1 - _MEMORY) * seconds
            self._changed.notify()

    def _notify(self) -> None:
        if self._jobs:  # else no thread needs to wake up; a job that comes now finds the gate as it is
            with self._changed:
                self._changed.notify_all()


class _Lane(Executor):
    def __init__(self, threads: FairThreads, standing: Standing) -> None:
        self._threads = threads
        self._standing = standing

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "Future[Result]":
        return self._threads.submit(self._standing, partial(fn, *args, **kwargs))


def _do(job: _Job) -> None:
    try:
        result = job.work()
    except BaseException as error:  # noqa: BLE001 (raised where the future is awaited)
        job.future.set_exception(error)
    else:
        job.future.set_result(result)
