"""The load beyond what a service can take, with made-up answers in place of a service."""

import asyncio
import itertools

from benchmarks.http_load.client import Outcome, Reply
from benchmarks.http_load.corpus import HttpRequest
from benchmarks.overload.__main__ import _figures, _ratio
from benchmarks.overload.load import Stream
from benchmarks.report import TARGETS, Record, generated

ANSWERED, REFUSED = Reply(status=200, code=None), Reply(status=429, code="overloaded")
REQUESTS = itertools.repeat(HttpRequest(body=b"", content_type="application/json"))


def outcomes(*latencies_ms: float, reply: Reply = ANSWERED) -> list[Outcome]:
    return [Outcome(due=1.0, finished=1.0 + latency / 1000, reply=reply) for latency in latencies_ms]


def test_a_stream_goes_on_while_its_answers_are_late() -> None:
    waiting = 0

    async def run() -> int:
        gate = asyncio.Event()

        async def send(request: HttpRequest) -> Reply:
            nonlocal waiting
            waiting += 1
            if waiting == 5:
                gate.set()
            await gate.wait()
            return ANSWERED

        stream = Stream(send, REQUESTS, rate=1000.0, seed=0)
        await stream.run(seconds=0.1)
        return len(stream.outcomes)

    assert asyncio.run(run()) == waiting >= 5


def test_a_stream_that_is_stopped_drops_what_is_under_way() -> None:
    async def run() -> int:
        ended = 0

        async def send(request: HttpRequest) -> Reply:
            nonlocal ended
            try:
                await asyncio.Event().wait()
            finally:
                ended += 1
            return ANSWERED

        stream = Stream(send, REQUESTS, rate=1000.0, seed=0)
        task = asyncio.create_task(stream.run_until_cancelled())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not stream.outcomes
        return ended

    assert asyncio.run(run()) > 0


def test_refusals_have_times_of_their_own() -> None:
    figures = _figures([*outcomes(100, 300), *outcomes(10, reply=REFUSED)])
    assert (figures["answered"], figures["latency_ms"]["p50"], figures["refusal_ms"]["p50"]) == (2, 200.0, 10.0)
    assert figures["refused"] == {"overloaded": 1}


def test_the_ratio_is_of_answers_alone() -> None:
    assert _ratio([*outcomes(200, 200), *outcomes(1, reply=REFUSED)], outcomes(100, 100)) == 2.0


def test_the_report_shows_the_other_callers_time_and_what_is_left_of_the_rate() -> None:
    run = {"alone": {"latency_ms": {"p95": 500.0}}, "beside_flood": {"latency_ms": {"p95": 750.0}}, "p95_ratio": 1.5}
    results = {
        "workload": {"send": "pdf", "service_flags": []},
        "service": {"gpu": "cpu"},
        "fairness": {"by_pages": {"2": run}},
        "overload": {"goodput_of_peak": 0.97, "refusal_ms": {"p99": 21.4}},
    }
    machine = {"device": "cpu", "processor": "a processor", "cores": 2, "torch": "2.13"}
    content = {"command": "python -m x", "commit": "abc", "date": "2026-11-23T00:00:00", "machine": machine}
    text = generated([Record(name="overload_pdf_cpu", content={**content, "results": results})], TARGETS[1])
    assert "| `pdf` | CPU | 2: 500 -> 750 ms (1.50×) | 97% | 21 |" in text
