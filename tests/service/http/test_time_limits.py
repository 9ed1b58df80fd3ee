"""Requests that name their time, over HTTP: what is given up for it, what an answer says about it, and what is refused.

No test depends on the speed of the machine: rates are taught to the service, times are a day where they must suffice, and the
device is held where they must not.
"""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Any

import httpx
import pytest

from model import PageScores, PreparedRequest, Reranker, score_in_input_order
from service.inference.measured_times import MeasuredTimes
from service.time_limits import MAX_TIMEOUT_MS
from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.dialects.bodies import WIRES, Wire
from tests.service.http.requests import refused, rerank

PDF = make_pdf(6)
DOCUMENT = {"pdf": base64.b64encode(PDF).decode()}
DAY_SECONDS = MAX_TIMEOUT_MS / 1000
HELD_MS = 6_000  # long enough for all but the ranking
HEADER = "x-ziprerank-degraded"


def score_backwards(batch: Sequence[PreparedRequest]) -> list[PageScores]:
    """The last page is the best, so that a ranking differs from the given order."""
    return [
        replace(scores, logits=scores.logits[::-1], order=scores.order[::-1]) for scores in score_in_input_order(batch)
    ]


class Device:
    """Scores backwards, batch by batch: those that a test lets through."""

    def __init__(self, *, free_batches: int = 1_000_000) -> None:
        self.batches = 0
        self.free_batches = free_batches
        self.is_free = Event()

    def __call__(self, batch: Sequence[PreparedRequest]) -> list[PageScores]:
        self.batches += 1
        if self.batches > self.free_batches:
            assert self.is_free.wait(PATIENCE_SECONDS)
        return score_backwards(batch)


@pytest.fixture(scope="module")
def device() -> Device:
    return Device()


@pytest.fixture(scope="module")
def service(reranker: Reranker, device: Device) -> Iterator[RunningService]:
    """Its rates are those that the test teaches first."""
    with running_service(fake_loader(reranker, device)) as running:
        yield running


@contextmanager
def held_service(reranker: Reranker, *, free_batches: int) -> Iterator[tuple[RunningService, Device]]:
    """A fast service of its own, whose device stops after so many batches."""
    device = Device()
    with running_service(fake_loader(reranker, device)) as service:
        rerank(service, [DOCUMENT])  # whose pages are in the cache from now on
        device.batches, device.free_batches = 0, free_batches
        teach(service, 1e-9)
        try:
            yield service, device
        finally:
            device.is_free.set()


def times_of(service: RunningService) -> MeasuredTimes:
    app: Any = service.server.config.app
    times = app.state.service.pipeline.timekeeper.times
    assert isinstance(times, MeasuredTimes)
    return times


def teach(service: RunningService, seconds_per_token: float) -> None:
    """Have the language pass take so long, for a token and for nothing else."""
    times = times_of(service)
    taught = PageScores(logits=(0.0,), order=(0,), visual_tokens=300, kept_tokens=150, prompt_tokens=400)
    for _ in range(20):
        times.record_batch([taught], {"language": 400 * seconds_per_token}, seconds=400 * seconds_per_token)


def teach_full_work(service: RunningService, seconds: float, *, keep_ratio: float = 0.5, pages: int = 6) -> None:
    """Have the ranking of the first pages, with that keep ratio, be expected to take so many seconds."""
    answer = rerank(service, [DOCUMENT], ziprerank={"include_timings": True}).json()
    visual = answer["ziprerank"]["visual_tokens"]
    text = answer["usage"]["prompt_tokens"] - visual["after"]
    teach(service, 1.0)
    times = times_of(service)
    tokens = keep_ratio * visual["before"] * pages / 6 + max(times.text_tokens(len("locks")), text)
    teach(service, seconds / times.ratio("rank") / tokens)


def degraded(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(response.json()["meta"]["degraded"])


def places(response: httpx.Response) -> list[int]:
    return [result["page"] for result in response.json()["results"]]


def test_where_the_time_suffices_nothing_is_given_up(service: RunningService) -> None:
    teach(service, 1e-9)
    response = rerank(service, [DOCUMENT], ziprerank={"timeout_ms": MAX_TIMEOUT_MS})
    assert places(response) == [6, 5, 4, 3, 2, 1]
    assert "degraded" not in response.json()["meta"] and HEADER not in response.headers
    assert response.json()["meta"]["score"] == "softmax"


def test_the_keep_ratio_is_lowered_until_the_work_fits(service: RunningService) -> None:
    teach_full_work(service, DAY_SECONDS, keep_ratio=0.4)
    timings = {"include_timings": True}
    before = service.metric("ziprerank_given_up_total", part="keep_ratio")
    response = rerank(service, [DOCUMENT], ziprerank={"timeout_ms": MAX_TIMEOUT_MS, **timings})
    said = degraded(response)
    [part] = said["given_up"]
    assert (said["reason"], said["timeout_ms"]) == ("too_little_time", MAX_TIMEOUT_MS)
    assert (part["name"], part["from"]) == ("keep_ratio", 0.5) and 0.25 < part["to"] < 0.5
    assert response.headers[HEADER] == f"keep_ratio={part['to']}"
    assert places(response) == [6, 5, 4, 3, 2, 1]
    tokens = response.json()["ziprerank"]["visual_tokens"]
    assert tokens["after"] == pytest.approx(part["to"] * tokens["before"], abs=6)
    assert service.metric("ziprerank_given_up_total", part="keep_ratio") == before + 1
    assert service.metric("ziprerank_degraded_requests_total", reason="too_little_time") >= 1


def test_the_keep_ratio_is_not_lowered_below_the_one_that_is_named(service: RunningService) -> None:
    teach_full_work(service, DAY_SECONDS, keep_ratio=0.4)
    options = {"timeout_ms": MAX_TIMEOUT_MS, "min_keep_ratio": 0.5}
    [part] = degraded(rerank(service, [DOCUMENT], ziprerank=options))["given_up"]
    assert (part["name"], part["from"]) == ("ranked_pages", 6)


def test_only_the_first_pages_are_loaded_and_ranked_where_more_do_not_fit(service: RunningService) -> None:
    teach_full_work(service, DAY_SECONDS, keep_ratio=0.25, pages=3)
    other = {"pdf": base64.b64encode(make_pdf(6, width=410)).decode()}
    response = rerank(service, [other], ziprerank={"timeout_ms": MAX_TIMEOUT_MS, "score": "softmax"})
    given_up = {part["name"]: (part["from"], part["to"]) for part in degraded(response)["given_up"]}
    whole, ranked = given_up["ranked_pages"]
    assert whole == 6 and 2 <= ranked < 6
    assert places(response) == [*range(ranked, 0, -1), *range(ranked + 1, 7)]
    assert f"ranked_pages={ranked}/6" in response.headers[HEADER]
    meta = response.json()["meta"]
    assert meta["score"] == "rank" and "no time to rank all pages" in meta["warnings"][0]
    scores = [result["relevance_score"] for result in response.json()["results"]]
    assert scores == sorted(scores, reverse=True)


def test_the_given_order_is_the_answer_where_nothing_fits(service: RunningService, device: Device) -> None:
    teach(service, 1e9)
    before = device.batches
    response = rerank(service, [DOCUMENT], ziprerank={"timeout_ms": MAX_TIMEOUT_MS})
    assert degraded(response)["given_up"] == [{"name": "order", "from": "ranked", "to": "given"}]
    assert places(response) == [1, 2, 3, 4, 5, 6]
    assert device.batches == before and response.json()["meta"]["windows"] == 0


def test_who_wants_all_of_the_work_is_refused_at_once_where_it_does_not_fit(
    service: RunningService, device: Device
) -> None:
    teach(service, 1e9)
    before = device.batches
    response = rerank(service, [DOCUMENT], ziprerank={"timeout_ms": MAX_TIMEOUT_MS, "on_deadline": "fail"})
    refused(response, 429, "time_too_short", f"has {MAX_TIMEOUT_MS} ms", "on_deadline")
    assert device.batches == before


def test_work_that_was_refused_by_its_estimate_is_tried_again_some_time(
    service: RunningService, device: Device
) -> None:
    teach(service, 10 * DAY_SECONDS / 400)
    before = device.batches
    options = {"timeout_ms": MAX_TIMEOUT_MS, "on_deadline": "fail"}
    statuses = [rerank(service, [DOCUMENT], ziprerank=options).status_code for _ in range(100)]
    assert statuses[0] == 429 and statuses[-1] == 200
    assert device.batches > before


def test_an_answer_does_not_wait_for_a_window_that_runs(reranker: Reranker) -> None:
    with held_service(reranker, free_batches=0) as (service, device):
        response = rerank(service, [DOCUMENT], ziprerank={"timeout_ms": HELD_MS})
        assert places(response) == [1, 2, 3, 4, 5, 6]
        assert degraded(response)["given_up"][0]["name"] == "order"
        assert degraded(response)["reason"] == "time_up" and device.batches == 1
        device.is_free.set()
        assert places(rerank(service, [DOCUMENT])) == [6, 5, 4, 3, 2, 1]


def test_the_order_so_far_is_the_answer_where_later_windows_are_held(reranker: Reranker) -> None:
    with held_service(reranker, free_batches=1) as (service, _):
        options = {"timeout_ms": HELD_MS, "window_size": 4, "stride": 2}
        response = rerank(service, [DOCUMENT], ziprerank=options)
        assert places(response) == [1, 2, 6, 5, 4, 3]
        said = degraded(response)
        assert said["reason"] == "time_up"
        assert said["given_up"] == [
            {"name": "windows", "from": 2, "to": 1},
            {"name": "ranked_pages", "from": 6, "to": 4},
        ]


def test_who_wants_all_of_the_work_gets_an_error_as_the_time_is_up(reranker: Reranker) -> None:
    with held_service(reranker, free_batches=0) as (service, _):
        response = rerank(service, [DOCUMENT], ziprerank={"timeout_ms": HELD_MS, "on_deadline": "fail"})
        refused(response, 429, "time_too_short", f"has {HELD_MS} ms")


def test_windows_that_still_wait_for_the_device_are_dropped_as_the_time_is_up(reranker: Reranker) -> None:
    with ThreadPoolExecutor() as threads, held_service(reranker, free_batches=0) as (service, device):
        first = threads.submit(rerank, service, [DOCUMENT])
        eventually(lambda: device.batches == 1, "the first request's window runs")
        teach(service, 1e-9)
        response = rerank(service, [DOCUMENT], ziprerank={"timeout_ms": HELD_MS})
        assert degraded(response)["given_up"][0]["name"] == "order"
        device.is_free.set()
        assert places(first.result(PATIENCE_SECONDS)) == [6, 5, 4, 3, 2, 1]
        assert places(rerank(service, [DOCUMENT])) == [6, 5, 4, 3, 2, 1]
        assert device.batches == 2
        assert service.metric("ziprerank_cancellations_total", stage="queue") == 0


def test_a_request_whose_body_comes_too_slowly_is_refused_before_its_time_is_up(reranker: Reranker) -> None:
    timeout_seconds = 8.0

    def body() -> Iterator[bytes]:
        yield b"{"
        assert refused_early.wait(PATIENCE_SECONDS)

    refused_early = Event()
    with running_service(fake_loader(reranker)) as service:
        for _ in range(256):
            times_of(service).record_leaving(timeout_seconds - 0.1)  # so that half of the time is kept free
        started = time.monotonic()
        headers = {"X-Request-Timeout-Ms": str(int(1000 * timeout_seconds)), "Content-Type": "application/json"}
        with ThreadPoolExecutor(1) as threads:
            sent = threads.submit(service.client.post, "/rerank", content=body(), headers=headers)
            eventually(lambda: service.metric("ziprerank_requests_total", code="429") == 1)
            seconds = time.monotonic() - started
            refused_early.set()
            sent.exception()  # the connection may be closed while the body is sent
    assert timeout_seconds / 2 <= seconds < timeout_seconds


@pytest.mark.parametrize("sent", ["", "0", "-5", "1.5", "ten", "1e3", "٣", "9" * 30])
def test_a_malformed_header_is_named(service: RunningService, sent: str) -> None:
    response = rerank(service, [DOCUMENT], headers=httpx.Headers([(b"X-Request-Timeout-Ms", sent.encode())]))
    body = refused(response, 400, "invalid_request", "X-Request-Timeout-Ms", str(MAX_TIMEOUT_MS))
    assert body["error"]["param"] == "X-Request-Timeout-Ms"


@pytest.mark.parametrize(
    "options",
    [{"timeout_ms": 0}, {"timeout_ms": -1}, {"timeout_ms": 1.5}, {"timeout_ms": MAX_TIMEOUT_MS + 1}, {"on_deadline": "x"},
     {"min_keep_ratio": 0}, {"min_keep_ratio": 0.6}, {"keep_ratio": 0.2, "min_keep_ratio": 0.3}],
    ids=repr,
)  # fmt: skip
def test_options_out_of_their_range_are_refused(service: RunningService, options: dict[str, Any]) -> None:
    refused(rerank(service, [DOCUMENT], ziprerank=options), 400, "invalid_request")


@pytest.mark.parametrize(("header_ms", "body_ms"), [(60_000, MAX_TIMEOUT_MS), (MAX_TIMEOUT_MS, 60_000), (60_000, None)])
def test_the_smaller_of_header_and_body_holds(service: RunningService, header_ms: int, body_ms: int | None) -> None:
    teach_full_work(service, 3_600)
    own = {} if body_ms is None else {"timeout_ms": body_ms}
    response = rerank(service, [DOCUMENT], headers={"X-Request-Timeout-Ms": str(header_ms)}, ziprerank=own)
    assert degraded(response)["timeout_ms"] == 60_000


def test_the_configured_time_is_that_of_requests_that_name_none(reranker: Reranker, device: Device) -> None:
    with running_service(fake_loader(reranker, device), default_timeout_ms=60_000) as service:
        teach_full_work(service, 3_600)
        assert degraded(rerank(service, [DOCUMENT]))["timeout_ms"] == 60_000
        longer = rerank(service, [DOCUMENT], headers={"X-Request-Timeout-Ms": str(MAX_TIMEOUT_MS)})
        assert "degraded" not in longer.json()["meta"]


def test_a_form_names_its_time_like_json(service: RunningService) -> None:
    teach(service, 1e9)
    response = service.client.post(
        "/rerank",
        data={"query": "locks", "ziprerank": json.dumps({"timeout_ms": 60_000})},
        files=[("file", ("a.pdf", PDF, "application/pdf"))],
    )
    assert degraded(response)["timeout_ms"] == 60_000
    assert response.headers[HEADER] == "order=given"


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_every_dialect_names_its_time_and_says_in_a_header_what_was_given_up(
    service: RunningService, wire: Wire
) -> None:
    teach(service, 1e9)
    body = {**wire.body("locks", ["one page", "another page", "a third"]), "ziprerank": {"timeout_ms": MAX_TIMEOUT_MS}}
    response = service.client.post(wire.path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers[HEADER] == "order=given"
    assert wire.order(response.json()) == [0, 1, 2]


def test_web_pages_may_read_the_header(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), cors_origins="https://app.example") as service:
        response = service.client.get("/readyz", headers={"Origin": "https://app.example"})
        assert "X-ZipRerank-Degraded" in response.headers["access-control-expose-headers"]


def test_the_api_description_has_both_headers(service: RunningService) -> None:
    for path in ("/rerank", "/v1/documents/{id}/rerank", "/score"):
        described = service.client.get("/openapi.json").json()["paths"][path]["post"]
        assert "X-Request-Timeout-Ms" in {parameter.get("name") for parameter in described["parameters"]}
        assert "X-ZipRerank-Degraded" in described["responses"]["200"]["headers"]
