"""Probes, metrics, admission, disconnects: what operators and load balancers rely on."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

import httpx
import pytest
import torch
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_text_to_metric_families

from model import (
    DeviceLostError,
    FakeRankingModel,
    PageScores,
    PreparedRequest,
    RankingModel,
    Reranker,
    score_in_input_order,
)
from model.compressor import PageShare, select_tokens
from service.app import load_reranker
from service.metrics import STAGES
from service.settings import Settings
from service.startup import EXIT_DEVICE_LOST
from tests.compressors import SelectedBy
from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, eventually, wait_until_ready
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import rerank_file

PDF = ("a.pdf", make_pdf(2, width=64, height=64), "application/pdf")


def address(service: RunningService) -> tuple[str, int]:
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


class Gate:
    """A forward pass that waits until the test opens it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.batch_sizes: list[int] = []

    def __call__(self, batch: Sequence[PreparedRequest]) -> list[PageScores]:
        self.batch_sizes.append(len(batch))
        self.entered.set()
        assert self.opened.wait(PATIENCE_SECONDS)
        return score_in_input_order(batch)


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(
        fake_loader(reranker), page_cache_bytes=0
    ) as running:  # the tests send one file and see it rendered
        yield running


def test_probes_answer(service: RunningService) -> None:
    assert service.client.get("/livez").json() == {"status": "live"}
    assert service.client.get("/readyz").json() == {"status": "ready"}


def test_not_ready_until_a_warm_up_forward_has_run(reranker: Reranker) -> None:
    """The model's own: what chooses tokens is a step of every forward pass."""
    entered, opened = threading.Event(), threading.Event()

    def choose_when_opened(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
        entered.set()
        assert opened.wait(PATIENCE_SECONDS)
        return select_tokens(similarity, pages)

    warming_up = replace(reranker, compressor=SelectedBy(choose_when_opened))
    with running_service(lambda settings: warming_up, wait=False) as service:
        assert entered.wait(PATIENCE_SECONDS), "no forward pass before the first request"
        refused_as_not_ready(service)
        opened.set()
        wait_until_ready(service.client)
        assert rerank_file(service, PDF).status_code == 200


def test_not_ready_while_the_model_loads(reranker: Reranker) -> None:
    may_load = threading.Event()

    def slow_load(settings: Settings) -> RankingModel:
        assert may_load.wait(PATIENCE_SECONDS)
        return fake_loader(reranker)(settings)

    with running_service(slow_load, wait=False) as service:
        refused_as_not_ready(service)
        may_load.set()
        wait_until_ready(service.client)


def refused_as_not_ready(service: RunningService) -> None:
    assert service.client.get("/livez").status_code == 200
    for response in (service.client.get("/readyz"), rerank_file(service, PDF)):
        assert response.status_code == 503 and response.json()["code"] == "not_ready"
        assert response.headers["retry-after"]
    assert service.client.get("/info").json()["state"] == "loading"


def test_a_stop_does_not_wait_for_a_model_that_loads(reranker: Reranker) -> None:
    may_load = threading.Event()

    def slow_load(settings: Settings) -> RankingModel:
        may_load.wait(60)
        return fake_loader(reranker)(settings)

    started = time.monotonic()
    with running_service(slow_load, wait=False) as service:
        assert service.client.get("/readyz").status_code == 503
    assert time.monotonic() - started < 30
    may_load.set()


def test_the_model_list_and_info_publish_the_limits(service: RunningService) -> None:
    [model] = service.client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_pages"]) == ("fake", "model", 100)
    info = service.client.get("/info").json()
    assert info["window"] == {"window_size": 20, "stride": 10, "window_strategy": "sliding", "keep_ratio": 0.5}
    assert [info["compile"][tower]["compiled"] for tower in ("vision", "text")] == [False, False]
    assert info["quantise"]["scheme"] == "none" and info["quantise"]["reason"]
    sizes = {"image_bytes": 0, "vision_gpu_bytes": 0, "vision_host_bytes": 0}  # as set for these tests
    assert info["caches"] == {"scope": "shared", **sizes}
    assert info["limits"]["max_pages"] == 100
    assert info["dtype"] == "float32" and info["attention"]["text"]["kernel"] == "sdpa"
    assert {"torch", "transformers", "ziprerank"} <= set(info["versions"])


def test_info_says_how_the_decoder_is_quantised_and_why(reranker: Reranker) -> None:
    with running_service(fake_loader(replace(reranker, quantise="int8", quantise_reason="as asked"))) as service:
        assert service.client.get("/info").json()["quantise"] == {"scheme": "int8", "reason": "as asked"}


def test_the_reranker_that_is_loaded_is_quantised_as_the_settings_say() -> None:
    loaded = load_reranker(Settings(model="demo", device="cpu", quantise="int8", feature_cache_gpu_bytes=0))
    assert (loaded.quantise, loaded.quantise_reason) == ("int8", "as asked")


def test_the_api_description_resolves_all_its_references(service: RunningService) -> None:
    description = service.client.get("/openapi.json").json()
    text = service.client.get("/openapi.json").text
    schemas = description["components"]["schemas"]
    referred = {piece.split('"')[0] for piece in text.split('"#/components/schemas/')[1:]}
    assert {"RerankRequest", "RerankResponse", "ErrorBody"} <= referred <= set(schemas)
    assert set(description["paths"]["/rerank"]["post"]["requestBody"]["content"]) == {
        "application/json", "multipart/form-data"
    }  # fmt: skip
    assert service.client.get("/docs").status_code == 200


def test_a_request_moves_the_metrics(service: RunningService) -> None:
    before = service.metric("ziprerank_requests_total", code="200", route="/rerank")
    assert rerank_file(service, PDF).status_code == 200
    assert service.metric("ziprerank_requests_total", code="200", route="/rerank") == before + 1
    assert service.metric("ziprerank_requests_in_flight") == 0
    assert service.metric("ziprerank_ready") == 1
    for series in ("request_duration_seconds", "request_pages", "batch_tokens", "request_body_bytes"):
        assert service.metric(f"ziprerank_{series}_count") > 0, series
    for stage in ("parse", "render", "prepare", "queue", "respond"):
        assert service.metric("ziprerank_stage_duration_seconds_count", stage=stage) > 0, stage
    assert service.metric("ziprerank_raster_page_duration_seconds_count", stage="render") >= 2
    text = service.client.get("/metrics").text
    assert all(f'stage="{stage}"' in text for stage in STAGES)
    kept, given = (service.metric("ziprerank_visual_tokens_total", state=state) for state in ("kept", "input"))
    assert kept == given / 2
    assert service.metric("ziprerank_info", model="fake", dtype="float32") == 1
    assert service.metric("process_resident_memory_bytes") > 0


def test_metrics_are_text_or_openmetrics_as_the_client_accepts(service: RunningService) -> None:
    assert rerank_file(service, PDF).status_code == 200
    text = service.client.get("/metrics", headers={"Accept": "text/plain;version=0.0.4"})
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert not text.text.endswith("# EOF\n")
    scrape = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
    openmetrics = service.client.get("/metrics", headers={"Accept": scrape})  # what Prometheus 2 sends
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0;")
    families = {family.name: family for family in text_string_to_metric_families(openmetrics.text)}
    assert families["ziprerank_gpu_busy_seconds"].type == "counter"
    in_text = {family.name for family in plain_text_to_metric_families(text.text)}
    assert {name for name in in_text if name.endswith("_created")} | set(families) >= in_text
    unreadable = service.client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=abc"})
    assert unreadable.headers["content-type"].startswith("text/plain")


def test_what_may_be_alerted_on_is_there_before_it_happens(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker)) as fresh:
        text = fresh.client.get("/metrics").text
    for series in (
        'rejections_total{reason="queue_full"}', 'rejections_total{reason="draining"}', 'cancellations_total{stage="queue"}',
        'visual_tokens_total{state="kept"}', "oom_total", "engine_errors_total", "gpu_busy_seconds_total",
    ):  # fmt: skip
        assert f"ziprerank_{series} 0.0\n" in text, series


def test_the_estimated_wait_rises_with_the_queue_and_falls_to_nothing(reranker: Reranker) -> None:
    gate = Gate()
    with running_service(fake_loader(reranker, gate)) as service, ThreadPoolExecutor(3) as threads:
        gate.opened.set()
        assert rerank_file(service, PDF).status_code == 200  # a rate is measured
        gate.opened.clear()
        gate.entered.clear()
        running = threads.submit(rerank_file, service, PDF)
        assert gate.entered.wait(PATIENCE_SECONDS)
        waiting = [threads.submit(rerank_file, service, PDF)]
        eventually(lambda: service.metric("ziprerank_requests_waiting") == 1)
        one = service.metric("ziprerank_estimated_wait_seconds")
        waiting.append(threads.submit(rerank_file, service, PDF))
        eventually(lambda: service.metric("ziprerank_requests_waiting") == 2)
        assert service.metric("ziprerank_estimated_wait_seconds") == pytest.approx(2 * one) and one > 0
        gate.opened.set()
        assert {future.result().status_code for future in (running, *waiting)} == {200}
        assert service.metric("ziprerank_estimated_wait_seconds") == 0


def test_one_log_line_a_request_with_sizes_and_times_and_without_content(
    service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="service.http.exchange"):
        answer = rerank_file(service, PDF, query="secret plans")
        service.client.get("/livez")  # its answer comes after the line of the request before
    [line] = [message for message in caplog.messages if answer.json()["id"] in message]
    for field in ("id=rerank-", "path=/rerank", "status=200", "documents=1", "pages=2", "visual_tokens=", "kept_tokens=",
                  "prompt_tokens=", "render=", "queue="):  # fmt: skip
        assert field in line
    assert "secret" not in line and "a.pdf" not in line


def test_what_waits_becomes_one_batch_and_the_gauges_see_it(reranker: Reranker) -> None:
    gate = Gate()
    with running_service(fake_loader(reranker, gate)) as service, ThreadPoolExecutor(4) as threads:
        first = threads.submit(rerank_file, service, PDF)
        assert gate.entered.wait(PATIENCE_SECONDS)
        others = [threads.submit(rerank_file, service, PDF) for _ in range(3)]
        eventually(lambda: service.metric("ziprerank_requests_waiting") == 3)
        assert service.metric("ziprerank_requests_running") == 1
        assert service.metric("ziprerank_requests_in_flight") == 4
        assert service.metric("ziprerank_queue_pages") == 6
        gate.opened.set()
        assert [future.result().status_code for future in (first, *others)] == [200] * 4
    assert gate.batch_sizes == [1, 3]


def test_a_full_house_refuses_with_retry_after(reranker: Reranker) -> None:
    gate = Gate()
    limits: dict[str, Any] = {"max_concurrent_requests": 1}
    with running_service(fake_loader(reranker, gate), **limits) as service, ThreadPoolExecutor(1) as threads:
        first = threads.submit(rerank_file, service, PDF)
        assert gate.entered.wait(PATIENCE_SECONDS)
        refusal = rerank_file(service, PDF)
        assert (refusal.status_code, refusal.json()["code"]) == (429, "overloaded")
        assert 1 <= int(refusal.headers["retry-after"]) <= 5
        assert service.metric("ziprerank_rejections_total", reason="queue_full") == 1
        gate.opened.set()
        assert first.result().status_code == 200
        assert rerank_file(service, PDF).status_code == 200


def test_a_full_queue_refuses_with_retry_after(reranker: Reranker) -> None:
    gate = Gate()
    with (
        running_service(fake_loader(reranker, gate), queue_limit_tokens=300) as service,
        ThreadPoolExecutor(2) as threads,
    ):
        running = threads.submit(rerank_file, service, PDF)
        assert gate.entered.wait(PATIENCE_SECONDS)
        waiting = threads.submit(rerank_file, service, PDF)
        eventually(lambda: service.metric("ziprerank_requests_waiting") == 1)
        refusal = rerank_file(service, PDF)
        assert (refusal.status_code, refusal.json()["code"]) == (429, "overloaded")
        assert refusal.headers["retry-after"]
        gate.opened.set()
        assert {running.result().status_code, waiting.result().status_code} == {200}


def test_a_client_that_has_gone_is_dropped_from_the_queue(reranker: Reranker) -> None:
    gate = Gate()
    with running_service(fake_loader(reranker, gate)) as service, ThreadPoolExecutor(2) as threads:
        first = threads.submit(rerank_file, service, PDF)
        assert gate.entered.wait(PATIENCE_SECONDS)
        body = httpx.Request("POST", service.url, data={"query": "gone"}, files=[("file", PDF)])
        with socket.create_connection(address(service)) as impatient:
            head = f"Content-Type: {body.headers['content-type']}\r\nContent-Length: {body.headers['content-length']}"
            impatient.sendall(f"POST /rerank HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode() + body.read())
            eventually(lambda: service.metric("ziprerank_requests_waiting") == 1)
        eventually(lambda: service.metric("ziprerank_requests_in_flight") == 1)
        second = threads.submit(rerank_file, service, PDF)
        eventually(lambda: service.metric("ziprerank_requests_in_flight") == 2)
        gate.opened.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
        assert service.metric("ziprerank_requests_total", code="499") == 1
    assert sum(gate.batch_sizes) == 2


def test_a_request_over_its_deadline_gets_an_error(reranker: Reranker) -> None:
    gate = Gate()
    with running_service(fake_loader(reranker, gate), request_seconds=0.3) as service:
        late = rerank_file(service, PDF)
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        gate.opened.set()


def test_a_batch_that_hangs_makes_the_service_not_ready(reranker: Reranker) -> None:
    gate = Gate()
    with running_service(fake_loader(reranker, gate), stall_seconds=0.2) as service, ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(rerank_file, service, PDF)
        assert gate.entered.wait(PATIENCE_SECONDS)
        eventually(lambda: service.client.get("/readyz").status_code == 503)
        assert service.client.get("/livez").status_code == 200
        gate.opened.set()
        assert stuck.result().status_code == 200
        wait_until_ready(service.client)


def test_a_bug_is_a_500_with_a_request_id_and_without_details(
    reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(FakeRankingModel):
        def prepare_page(self, page: object, *, tenant: bytes) -> NoReturn:
            raise RuntimeError("at 0x7f00")

    broken = Buggy(model=reranker)
    with running_service(lambda settings: broken) as service:
        answer = rerank_file(service, PDF)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "0x7f00" not in answer.text and "0x7f00" in caplog.text
        assert service.metric("ziprerank_requests_total", code="500") == 1


def test_a_fault_in_the_model_is_a_500_without_details(reranker: Reranker) -> None:
    def fault(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        raise RuntimeError("weights at 0x7f00")

    with running_service(fake_loader(reranker, fault)) as service:
        answer = rerank_file(service, PDF)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "0x7f00" not in answer.text
        assert service.metric("ziprerank_engine_errors_total") == 1


def test_a_lost_device_is_reported_and_ends_the_service(reranker: Reranker) -> None:
    def fault(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        raise DeviceLostError("illegal access")

    with running_service(fake_loader(reranker, fault)) as service:
        answer = rerank_file(service, PDF)
        assert (answer.status_code, answer.json()["code"]) == (503, "gpu_failed")
        assert service.exit_code() == EXIT_DEVICE_LOST == 70  # as the runbook says


def test_draining_is_seen_at_once_and_still_accepts(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker)) as service:
        service.lifecycle.drain()
        assert service.client.get("/readyz").json()["code"] == "draining"
        assert rerank_file(service, PDF).status_code == 200
        service.lifecycle.refuse()
        refusal = rerank_file(service, PDF)
        assert (refusal.status_code, refusal.json()["code"]) == (503, "draining")
        assert refusal.headers["connection"] == "close"


def test_a_key_guards_everything_but_the_probes(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), wait=False, api_key="right") as service:
        for path in ("/livez", "/readyz"):
            assert service.client.get(path).status_code in (200, 503)
        for refusal in (rerank_file(service, PDF), service.client.get("/metrics"), service.client.get("/info")):
            assert (refusal.status_code, refusal.json()["code"]) == (401, "unauthorized")
            assert refusal.headers["www-authenticate"] == "Bearer"
        key = {"Authorization": "Bearer right"}
        assert service.client.get("/info", headers=key).status_code == 200
        assert service.client.get("/info", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_body_that_does_not_arrive_is_a_time_out(reranker: Reranker) -> None:
    with (
        running_service(fake_loader(reranker), body_idle_seconds=0.2) as service,
        socket.create_connection(address(service), timeout=PATIENCE_SECONDS) as connection,
    ):
        connection.sendall(
            b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
