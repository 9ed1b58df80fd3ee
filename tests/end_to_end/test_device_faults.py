"""Faults of the device and the answers of a real process: to the request at fault, to its batch mates, to the probes, and to
the supervisor that reads the exit code."""

import base64
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.documents import make_image
from tests.end_to_end.faulty_device import (
    BROKEN,
    GATE,
    HANGS,
    HOLDS_THE_INTERPRETER,
    MOST_REQUESTS,
    NOT_A_NUMBER,
    SLOW,
)
from tests.patience import PATIENCE_SECONDS, TICK_SECONDS, eventually, wait_until_ready
from tests.processes import listening_url, process

PAGE = base64.b64encode(make_image(64, 64)).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyService:
    running: "subprocess.Popen[str]"
    client: httpx.Client
    lines: list[str]

    @property
    def log(self) -> str:
        """Since it listens."""
        return "".join(self.lines)


@contextmanager
def faulty_service(*flags: str) -> Iterator[FaultyService]:
    """A ready process."""
    own = ("--model", "demo", "--device", "cpu", "--port", "0", "--rasterizer-processes", "1")
    with process(*own, *flags, module="tests.end_to_end.faulty_device") as running:
        lines: list[str] = []
        with httpx.Client(base_url=listening_url(running, lines), timeout=PATIENCE_SECONDS) as client:
            wait_until_ready(client)
            yield FaultyService(running=running, client=client, lines=lines)


@pytest.fixture(scope="module")
def service() -> Iterator[FaultyService]:
    with faulty_service() as service:
        yield service


def ask(client: httpx.Client, pages: int) -> httpx.Response:
    return client.post("/rerank", json={"query": "locks", "documents": [{"image": PAGE}] * pages})


def is_cut_off(client: httpx.Client, pages: int) -> bool:
    """Whether the connection of a request breaks."""
    try:
        ask(client, pages)
    except httpx.TransportError:
        return True
    return False


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def ask_in_one_batch(service: FaultyService, pages: Sequence[int]) -> list[httpx.Response]:
    """Requests with these numbers of pages, held back by a batch before them until all of them wait."""
    client = service.client
    before = metric(client, "ziprerank_batch_requests_count")
    with ThreadPoolExecutor(1 + len(pages)) as threads:
        gate = threads.submit(ask, client, GATE)
        eventually(lambda: metric(client, "ziprerank_requests_running") == 1, "the first batch is on the device")
        answers = [threads.submit(ask, client, count) for count in pages]
        eventually(lambda: metric(client, "ziprerank_requests_waiting") == len(pages), "all requests wait")
        assert service.running.stdin is not None
        print(file=service.running.stdin, flush=True)
        assert gate.result(PATIENCE_SECONDS).status_code == 200
        results = [answer.result(PATIENCE_SECONDS) for answer in answers]
    assert metric(client, "ziprerank_batch_requests_count") - before == 2, "all requests were in one batch"
    return results


def codes(answers: Sequence[httpx.Response]) -> list[tuple[int, str | None]]:
    return [(answer.status_code, answer.json().get("code")) for answer in answers]


OK = (200, None)


def test_a_request_that_fails_fails_alone(service: FaultyService) -> None:
    answers = ask_in_one_batch(service, [1, 1, BROKEN, 1])
    assert codes(answers) == [OK, OK, (500, "internal_error"), OK]
    assert "0x7f00" not in answers[2].text
    assert codes([ask(service.client, 1)]) == [OK]


def test_a_request_without_finite_scores_fails_alone(service: FaultyService) -> None:
    answers = ask_in_one_batch(service, [NOT_A_NUMBER, 1, 1])
    assert codes(answers) == [(500, "score_invalid"), OK, OK]
    assert codes([ask(service.client, NOT_A_NUMBER), ask(service.client, 1)]) == [(500, "score_invalid"), OK]


def test_a_batch_that_does_not_fit_is_split_and_every_request_is_answered(
    service: FaultyService,
) -> None:
    client = service.client
    before = metric(client, "ziprerank_oom_total")
    answers = ask_in_one_batch(service, [1] * (MOST_REQUESTS + 2))
    assert codes(answers) == [OK] * (MOST_REQUESTS + 2)
    assert metric(client, "ziprerank_oom_total") == before + 1
    assert client.get("/readyz").status_code == 200


def test_a_batch_that_hangs_is_not_ready_and_then_ends_the_process_with_71_and_all_stacks() -> None:
    flags = "--stall-seconds", "1", "--stall-exit-seconds", "10"
    with faulty_service(*flags) as service, ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(is_cut_off, service.client, HANGS)
        eventually(lambda: service.client.get("/readyz").status_code == 503, "the stall is seen")
        assert service.client.get("/readyz").json()["code"] == "not_ready"
        assert service.client.get("/livez").status_code == 200
        assert service.running.wait(PATIENCE_SECONDS) == 71
        assert stuck.result(PATIENCE_SECONDS)
        eventually(
            lambda: "pack_with_faults" in service.log and "in _answer" in service.log, "the stacks of both threads"
        )
        assert "stall_exit_seconds is 10" in service.log


def test_a_library_that_keeps_the_interpreter_for_ever_ends_the_process_with_1_and_all_stacks() -> None:
    with (
        faulty_service("--stall-seconds", "1", "--stall-exit-seconds", "5") as service,
        ThreadPoolExecutor(1) as threads,
    ):
        stuck = threads.submit(is_cut_off, service.client, HOLDS_THE_INTERPRETER)
        assert service.running.wait(PATIENCE_SECONDS) == 1
        assert stuck.result(PATIENCE_SECONDS)
        eventually(lambda: "pack_with_faults" in service.log, "the stack of the thread that hangs")


def test_a_queue_that_moves_on_is_no_stall() -> None:
    """Each batch takes two seconds, all of them together more than the limit."""
    with (
        faulty_service("--stall-seconds", "8", "--stall-exit-seconds", "8") as service,
        ThreadPoolExecutor(2) as threads,
    ):
        started = time.monotonic()
        answers = [threads.submit(ask, service.client, SLOW) for _ in range(10)]
        while not all(answer.done() for answer in answers):
            assert service.client.get("/readyz").status_code == 200
            time.sleep(TICK_SECONDS)
        assert codes([answer.result() for answer in answers]) == [OK] * 10
        assert time.monotonic() - started > 8
