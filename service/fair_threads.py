"""Threads that do the jobs of several callers in turn, by the time that the jobs take."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.fair_queue import FairQueue, Standing

_MEMORY = 0.9  # weight of the past in the mean time of a job

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    standing: Standing
    future: "Future[Any]"
    work: Callable[[], Any]


class FairThreads:
    """A pool of threads. Callers that submit many jobs wait for the threads longer; others do not wait behind those jobs."""

    def __init__(self, count: int, *, name: str) -> None:
        """name: the beginning of the threads' names."""
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)
        self._lock = threading.Lock()  # of the fields below
        self._jobs: FairQueue[_Job] = FairQueue()
        self._mean_seconds = 0.0

    @property
    def waiting_jobs(self) -> int:
        return len(self._jobs)

    def of(self, standing: Standing) -> Executor:
        """The threads as an executor of one caller. Only `shutdown` of the whole ends them."""
        return _Lane(self, standing)

    def shutdown(self) -> None:
        """Refuse further jobs and cancel those that have not begun. Does not wait for the others."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            while self._jobs:
                self._jobs.pop(cost=0.0).future.cancel()

    def submit(self, standing: Standing, work: Callable[[], Result]) -> "Future[Result]":
        """Raises: RuntimeError after `shutdown`."""
        job = _Job(standing=standing, future=Future(), work=work)
        with self._lock:
            self._pool.submit(self._do_next)
            self._jobs.push(job, standing, expected_cost=self._mean_seconds)
        return job.future

    def _do_next(self) -> None:
        """In a thread, as often as a job was submitted."""
        with self._lock:
            if not self._jobs:
                return
            expected = self._mean_seconds
            job = self._jobs.pop(cost=expected)
        started = time.perf_counter()
        if job.future.set_running_or_notify_cancel():
            _run(job)
        seconds = time.perf_counter() - started
        with self._lock:
            self._jobs.charge(job.standing, seconds - expected)
            self._mean_seconds = _MEMORY * expected + (1 - _MEMORY) * seconds


class _Lane(Executor):
    def __init__(self, threads: FairThreads, standing: Standing) -> None:
        self._threads = threads
        self._standing = standing

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "Future[Result]":
        return self._threads.submit(self._standing, partial(fn, *args, **kwargs))


def _run(job: _Job) -> None:
    try:
        result = job.work()
    except BaseException as error:  # noqa: BLE001 (raised where the future is awaited)
        job.future.set_exception(error)
    else:
        job.future.set_result(result)
