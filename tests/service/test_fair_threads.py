"""A caller's jobs in a pool of threads: in turn with those of others, whoever submitted more."""

import threading
import time
from collections.abc import Iterator

import pytest

from service import host_gate
from service.fair_queue import Standing
from service.fair_threads import FairThreads
from service.host_gate import HostGate
from tests.patience import PATIENCE_SECONDS

FLOODER, OTHER = Standing(share_id="flooder"), Standing(share_id="other")


@pytest.fixture
def threads() -> Iterator[FairThreads]:
    made = FairThreads(1, name="test")
    yield made
    made.shutdown()


def test_a_job_does_not_wait_behind_the_jobs_of_another_caller(threads: FairThreads) -> None:
    gate, entered, done = threading.Event(), threading.Event(), list[str]()

    def block() -> None:
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)

    blocked = threads.of(FLOODER).submit(block)
    assert entered.wait(PATIENCE_SECONDS)
    flood = [threads.of(FLOODER).submit(done.append, "flooder") for _ in range(100)]
    other = threads.of(OTHER).submit(done.append, "other")
    assert threads.waiting_jobs == 101
    gate.set()
    for future in (blocked, *flood, other):
        future.result(timeout=PATIENCE_SECONDS)
    assert done.index("other") == 0 and len(done) == 101


def test_result_and_error_of_a_job_reach_the_one_who_submitted_it(threads: FairThreads) -> None:
    lane = threads.of(OTHER)
    assert lane.submit(pow, 2, exp=5).result(timeout=PATIENCE_SECONDS) == 32
    with pytest.raises(ZeroDivisionError):
        lane.submit(lambda: 1 / 0).result(timeout=PATIENCE_SECONDS)


def test_a_cancelled_job_is_skipped(threads: FairThreads) -> None:
    gate, done = threading.Event(), list[str]()
    lane = threads.of(OTHER)
    blocked = lane.submit(gate.wait, PATIENCE_SECONDS)
    cancelled = lane.submit(done.append, "cancelled")
    assert cancelled.cancel()
    last = lane.submit(done.append, "last")
    gate.set()
    last.result(timeout=PATIENCE_SECONDS)
    assert blocked.result() and done == ["last"]


def test_shutdown_cancels_the_jobs_that_have_not_begun() -> None:
    threads, gate = FairThreads(1, name="test"), threading.Event()
    lane = threads.of(OTHER)
    running, waiting = lane.submit(gate.wait, PATIENCE_SECONDS), lane.submit(gate.wait, PATIENCE_SECONDS)
    while not running.running():
        pass
    threads.shutdown()
    gate.set()
    assert waiting.cancelled() and running.result(timeout=PATIENCE_SECONDS)
    with pytest.raises(RuntimeError):
        lane.submit(gate.wait)


def test_one_thread_of_several_is_kept_for_callers_that_have_no_job_running() -> None:
    threads, gate = FairThreads(3, name="test"), threading.Event()
    flood = [threads.of(FLOODER).submit(gate.wait, PATIENCE_SECONDS) for _ in range(5)]
    for _ in range(100):  # between these the threads take what they may of the flood
        assert threads.of(OTHER).submit(int, "7").result(timeout=PATIENCE_SECONDS) == 7
    gate.set()
    assert all(job.result(timeout=PATIENCE_SECONDS) for job in flood)
    threads.shutdown()


def test_jobs_whose_caller_the_gate_keeps_out_begin_when_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_gate, "_LONGEST_SECONDS", 2 * PATIENCE_SECONDS)
    gate = HostGate()
    gate.enable()
    threads = FairThreads(2, name="test", gate=gate)
    gate.close_for("other")
    kept_out = [threads.of(FLOODER).submit(int, "5") for _ in range(3)]
    for _ in range(100):
        assert threads.of(OTHER).submit(int, "7").result(timeout=PATIENCE_SECONDS) == 7
    time.sleep(0.1)  # until both threads wait
    assert not any(job.done() for job in kept_out)
    gate.open_after("other")
    assert [job.result(timeout=PATIENCE_SECONDS) for job in kept_out] == [5, 5, 5]
    threads.shutdown()


def test_jobs_begin_when_the_gate_opens_by_itself() -> None:
    gate = HostGate()
    gate.enable()
    threads = FairThreads(2, name="test", gate=gate)
    gate.close_for("other")
    assert threads.of(FLOODER).submit(int, "5").result(timeout=PATIENCE_SECONDS) == 5
    threads.shutdown()
