"""The load's arithmetic, its chance, and its clocks, with made-up answers in place of a service."""

import asyncio
import json
from itertools import islice, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.http_load import client
from benchmarks.http_load.arrivals import make_chooser, poisson_arrivals, zipf_shares
from benchmarks.http_load.client import Outcome, Reply, closed_loop, connect, open_loop
from benchmarks.http_load.corpus import HttpRequest, RegisteredPages, Upload, make_corpus
from benchmarks.http_load.summary import goodput, highest_rate, hit_rates, share_in_time, split, summarise
from tests.clocks import Clock
from tests.servers import running_service

ANSWERED = Reply(status=200, code=None, timings_ms={"queue": 10.0, "vision": 30.0, "language": 20.0, "total": 75.0})
REFUSED = Reply(status=429, code="overloaded")
REQUEST = HttpRequest(body=b"", content_type="application/json")


def outcome(*, due: float, latency_ms: float, reply: Reply = ANSWERED) -> Outcome:
    return Outcome(due=due, finished=due + latency_ms / 1000, reply=reply)


FIVE = [
    outcome(due=0.0, latency_ms=100),
    outcome(due=0.5, latency_ms=200),
    outcome(due=1.0, latency_ms=400),
    outcome(due=1.5, latency_ms=50, reply=REFUSED),
    outcome(due=1.6, latency_ms=400),
]
"""Over two seconds."""


def test_goodput_counts_answers_in_time_over_the_whole_run() -> None:
    assert goodput(FIVE, 150) == pytest.approx(1 / 2.0)
    assert goodput(FIVE, 300) == pytest.approx(2 / 2.0)
    assert goodput(FIVE, 1000) == pytest.approx(4 / 2.0)


def test_a_refusal_is_never_in_time_however_quick() -> None:
    assert share_in_time(FIVE, 60) == 0
    assert share_in_time(FIVE, 1000) == pytest.approx(4 / 5)


def test_summary_tells_latencies_of_answers_and_codes_of_refusals() -> None:
    figures = summarise(FIVE)
    assert (figures["requests"], figures["answered"], figures["answered_per_second"]) == (5, 4, 2.0)
    assert figures["latency_ms"]["p50"] == 300  # of 100, 200, 400, 400
    assert figures["refused"] == {"overloaded": 1}


def test_a_run_without_answers_has_no_latency() -> None:
    figures = summarise([outcome(due=0.0, latency_ms=5, reply=REFUSED)])
    assert figures["latency_ms"] == {"p50": None, "p95": None, "p99": None}


def test_time_is_split_into_queue_compute_and_the_rest() -> None:
    parts = split([outcome(due=0.0, latency_ms=80)])
    assert {name: figures["p50"] for name, figures in parts.items()} == {"queue": 10, "compute": 50, "host": 15}


def run_at(rate: float, share: float) -> dict[str, Any]:
    return {"rate_per_second": rate, "share_in_time": {"300": share}}


def test_highest_rate_is_the_last_one_before_the_first_that_fails() -> None:
    runs = [run_at(4, 0.99), run_at(1, 1.0), run_at(3, 0.90), run_at(2, 0.96)]  # at 4 it was luck
    assert highest_rate(runs, slo_ms=300, share=0.95) == 2
    assert highest_rate(runs, slo_ms=300, share=0.99) == 1
    assert highest_rate([run_at(1, 0.5)], slo_ms=300, share=0.95) is None


def test_hit_rate_is_of_the_look_ups_between_two_readings() -> None:
    hits, misses = 'ziprerank_cache_hits_total{cache="vision"}', 'ziprerank_cache_misses_total{cache="vision"}'
    assert hit_rates({hits: 10, misses: 10}, {hits: 19, misses: 11}) == {"vision": 0.9, "image": None}


def test_arrivals_come_at_the_rate_and_as_irregularly_as_chance_has_it() -> None:
    arrivals = poisson_arrivals(50, 20_000, seed=1)
    gaps = np.diff([0.0, *arrivals])
    assert arrivals[-1] == pytest.approx(20_000 / 50, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # as of an exponential distribution; 0 if evenly spaced
    assert all(one <= other for one, other in pairwise(arrivals))
    assert arrivals == poisson_arrivals(50, 20_000, seed=1)


def test_shares_fall_as_zipf_has_it() -> None:
    assert zipf_shares(4, 1.0).tolist() == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    assert zipf_shares(4, 0.0).tolist() == [0.25] * 4


def test_popular_things_are_drawn_more_often_and_none_twice_at_once() -> None:
    chooser = make_chooser(10, 1.0, seed=2)
    draws = [chooser.draw(3) for _ in range(500)]
    assert all(len(set(draw)) == 3 for draw in draws)
    counts = np.bincount(np.concatenate(draws), minlength=10)
    assert counts[0] > 1.2 * counts[1]
    assert counts[1] > 1.2 * counts[3] > 1.2 * counts[9] > 0


def test_registered_pages_of_one_document_are_named_together() -> None:
    corpus = RegisteredPages(
        uploads=[Upload(document_id="a", pdf=b""), Upload(document_id="b", pdf=b"")],
        pages_per_document=3,
        pages_per_request=6,
        options={},
    )
    first, second = islice(corpus.requests(make_chooser(corpus.size, 0.0, seed=0)), 2)
    documents = json.loads(first.body)["documents"]
    assert sorted(documents, key=lambda document: document["id"]) == [
        {"id": "a", "pages": "1,2,3"},
        {"id": "b", "pages": "1,2,3"},
    ]
    assert json.loads(first.body)["query"] != json.loads(second.body)["query"]


def test_open_loop_counts_from_the_due_time_while_the_service_stands_still() -> None:
    """A service that serves one at a time and takes 20 s: the fifth of five due at once waits for the four before it."""
    time = Clock()

    async def run() -> list[Outcome]:
        lock = asyncio.Lock()

        async def send(request: HttpRequest) -> Reply:
            async with lock:
                await time.sleep(20)
            return ANSWERED

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "time", SimpleNamespace(perf_counter=time))
            patch.setattr(asyncio, "sleep", time.sleep)
            return await open_loop(send, iter([REQUEST] * 5), arrivals=[10.0] * 5, on_done=lambda: None)

    outcomes = asyncio.run(run())
    assert [outcome.latency for outcome in outcomes] == [20, 40, 60, 80, 100]
    assert all(outcome.due == 10 for outcome in outcomes)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_closed_loop_keeps_its_number_of_requests_under_way(concurrency: int) -> None:
    under_way = most = 0

    async def send(request: HttpRequest) -> Reply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return ANSWERED

    requests = iter([REQUEST] * 10)
    outcomes = asyncio.run(closed_loop(send, requests, concurrency=concurrency, count=10, on_done=lambda: None))
    assert len(outcomes) == 10
    assert most == concurrency


@pytest.mark.parametrize("form", ["jpeg", "pdf"])
def test_the_service_answers_what_a_corpus_sends(form: str) -> None:
    corpus = make_corpus(form, corpus_pages=4, pages_per_request=2, options={"include_timings": True})
    requests = corpus.requests(make_chooser(corpus.size, 1.0, seed=0))

    async def send_one(url: str) -> Reply:
        async with connect(url) as send:
            reply: Reply = await send(next(requests))
            return reply

    with running_service() as service:
        reply = asyncio.run(send_one(service.url))
    assert (reply.status, reply.code) == (200, None)
    assert reply.timings_ms["language"] > 0


def test_a_connection_that_breaks_is_an_outcome_of_its_own() -> None:
    async def send_one() -> Reply:
        async with connect("http://127.0.0.1:1") as send:  # nothing listens there
            reply: Reply = await send(REQUEST)
            return reply

    assert asyncio.run(send_one()) == Reply(status=0, code="no_answer")
