"""Traces of requests: which spans are kept, their content, their destination, and that a broken collector delays nothing."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from model import PageScores, PreparedRequest, Reranker, score_in_input_order
from service import tracing
from service.logs import configure_logging
from service.settings import read_settings
from tests.documents import make_image
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import rerank_file
from tests.spans import ReadSpan, read_spans

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-00"}
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


def rerank_private(service: RunningService, headers: dict[str, str] | None = None) -> httpx.Response:
    file = ("private.png", make_image(64, 64), "image/png")
    return rerank_file(service, file, query="what is private", headers=headers)


def spans_after(
    reranker: Reranker, file: Path, use: Callable[[RunningService], object], **settings: Any
) -> list[ReadSpan]:
    """What a service has written when it has ended."""
    with running_service(fake_loader(reranker), tracing=f"file:{file}", **settings) as service:
        use(service)
    return read_spans(file)


def exemplars(service: RunningService, name: str) -> set[str]:
    """Trace ids at a histogram's buckets, as an OpenMetrics parser reads them."""
    text = service.client.get("/metrics", headers=OPENMETRICS).text
    [family] = [family for family in text_string_to_metric_families(text) if family.name == name]
    return {sample.exemplar.labels["trace_id"] for sample in family.samples if sample.exemplar}


def test_latency_histograms_lead_to_the_trace(reranker: Reranker, tmp_path: Path) -> None:
    with running_service(fake_loader(reranker), tracing=f"file:{tmp_path}/spans") as service:
        assert rerank_private(service, NOT_SAMPLED).status_code == 200
        service.client.get("/readyz")  # the series follow the answer
        assert exemplars(service, "ziprerank_request_duration_seconds") == set()
        assert rerank_private(service, SAMPLED).status_code == 200
        eventually(lambda: exemplars(service, "ziprerank_request_duration_seconds") == {TRACE_ID})
        assert exemplars(service, "ziprerank_stage_duration_seconds") == {TRACE_ID}
        assert TRACE_ID not in service.client.get("/metrics", headers={"Accept": "text/plain"}).text


def test_without_tracing_nothing_is_kept(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker)) as service:
        assert rerank_private(service, SAMPLED).status_code == 200
        service.client.get("/readyz")
        assert exemplars(service, "ziprerank_request_duration_seconds") == set()
        assert not [thread.name for thread in threading.enumerate() if "Otel" in thread.name]


def test_requests_that_the_caller_did_not_sample_are_not_kept_and_probes_never_are(
    reranker: Reranker, tmp_path: Path
) -> None:
    def use(service: RunningService) -> None:
        assert rerank_private(service, NOT_SAMPLED).status_code == 200
        for path in ("/livez", "/readyz", "/metrics"):
            assert service.client.get(path).status_code == 200

    assert spans_after(reranker, tmp_path / "spans", use) == []


def test_spans_carry_ids_and_scores_only_where_asked_for_and_content_never(reranker: Reranker, tmp_path: Path) -> None:
    quiet, telling = tmp_path / "quiet", tmp_path / "telling"
    spans_after(reranker, quiet, rerank_private)
    assert "private" not in quiet.read_text()
    [span] = [
        span
        for span in spans_after(reranker, telling, rerank_private, tracing_documents=True)
        if "rerank z" in span.name
    ]
    assert span.attributes["reranker.input_documents.0.document.id"] == "private.png"
    assert span.attributes["reranker.output_documents.0.document.id"] == "private.png"
    assert span.attributes["reranker.output_documents.0.document.score"] == 1.0
    assert "what is private" not in telling.read_text()


def test_a_documents_id_in_the_path_becomes_a_hash(reranker: Reranker, tmp_path: Path) -> None:
    def use(service: RunningService) -> None:
        assert service.client.get("/v1/documents/private-plans").status_code == 404
        assert service.client.get("/v1/documents", params={"after": "private-plans"}).status_code == 200
        assert service.client.post("/v1/documents/private-plans/rerank", json={"query": "a"}).status_code == 404

    spans = spans_after(reranker, tmp_path / "spans", use)
    assert "private-plans" not in (tmp_path / "spans").read_text()
    servers = [span for span in spans if span.kind == "SERVER"]
    names = ["GET /v1/documents/{id}", "GET /v1/documents", "POST /v1/documents/{id}/rerank"]
    assert [span.name for span in servers] == names
    assert servers[0].attributes["ziprerank.affinity"] == servers[2].attributes["ziprerank.affinity"]
    assert "ziprerank.affinity" not in servers[1].attributes
    [failed] = [span for span in spans if span.name == "rerank ziprerank"]
    assert failed.attributes["error.type"] == "document_not_found" and failed.status == "ERROR"


def test_a_request_refused_before_routing_has_its_routes_name(reranker: Reranker, tmp_path: Path) -> None:
    spans = spans_after(reranker, tmp_path / "spans", lambda service: rerank_private(service), api_key="right")
    assert [(span.name, span.attributes["http.response.status_code"]) for span in spans] == [("POST /rerank", 401)]


def test_requests_of_one_batch_are_linked_to_it_and_it_to_them(reranker: Reranker, tmp_path: Path) -> None:
    entered, opened = threading.Event(), threading.Event()

    def wait(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        entered.set()
        assert opened.wait(PATIENCE_SECONDS)
        return score_in_input_order(batch)

    load = fake_loader(reranker, wait)
    with running_service(load, tracing=f"file:{tmp_path}/spans") as service, ThreadPoolExecutor(3) as threads:
        first = threads.submit(rerank_private, service, NOT_SAMPLED)
        assert entered.wait(PATIENCE_SECONDS)
        others = [threads.submit(rerank_private, service) for _ in range(2)]
        eventually(lambda: service.metric("ziprerank_requests_waiting") == 2)
        opened.set()
        assert {future.result().status_code for future in (first, *others)} == {200}
    spans = read_spans(tmp_path / "spans")
    requests = {span.span_id: span for span in spans if span.name == "rerank ziprerank"}
    assert len({span.trace_id for span in requests.values()}) == len(requests) == 2
    [batch] = [span for span in spans if span.name == "score batch"]
    assert set(batch.linked_ids) == set(requests) and batch.parent_id in requests
    assert batch.attributes["ziprerank.batch.requests"] == 2
    queued = [span for span in spans if span.name == "queue"]
    assert {span.parent_id for span in queued} == set(requests)
    assert {span.linked_ids for span in queued} == {(batch.span_id,)}


def test_reading_a_registered_documents_bytes_is_a_stage_of_its_own(reranker: Reranker, tmp_path: Path) -> None:
    def use(service: RunningService) -> None:
        image = make_image(64, 64)
        assert (
            service.client.put("/documents/a", content=image, headers={"content-type": "image/png"}).status_code == 202
        )
        eventually(lambda: service.client.get("/documents/a").json()["state"] == "ready")
        body = {"query": "a", "documents": [{"id": "a"}], "ziprerank": {"include_timings": True}}
        answer = service.client.post("/rerank", json=body)
        assert answer.json()["ziprerank"]["timings_ms"]["fetch"] > 0
        service.client.get("/readyz")  # the series follow the answer
        eventually(lambda: service.metric("ziprerank_stage_duration_seconds_count", stage="fetch") == 1)

    spans = spans_after(reranker, tmp_path / "spans", use, page_cache_bytes=0)
    [request] = [span for span in spans if span.name == "rerank ziprerank"]
    stages = [span.name for span in spans if span.parent_id == request.span_id]
    assert list(dict.fromkeys(stages))[:4] == ["parse", "fetch", "decode", "prepare"]


class Collector(BaseHTTPRequestHandler):
    """Takes the requests of a real OTLP exporter."""

    received: list[tuple[str, bytes]]
    answers: threading.Event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answers.wait(30)
        self.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Collector]]:
    """A collector that OTEL_EXPORTER_OTLP_ENDPOINT names; it answers while `answers` is set."""

    class Handler(Collector):
        received: list[tuple[str, bytes]] = []  # noqa: RUF012 (a class of its own in each test)
        answers = threading.Event()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Handler
        finally:
            Handler.answers.set()
            server.shutdown()
            thread.join()


def test_spans_reach_a_collector_by_otlp(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(monkeypatch) as handler:
        handler.answers.set()
        with running_service(fake_loader(reranker), tracing="otlp") as service:
            assert rerank_private(service, SAMPLED).status_code == 200
    messages = [ExportTraceServiceRequest.FromString(body) for path, body in handler.received if path == "/v1/traces"]
    spans = [
        span for message in messages for part in message.resource_spans for s in part.scope_spans for span in s.spans
    ]
    assert {"POST /rerank", "rerank ziprerank", "decode", "queue"} <= {span.name for span in spans}
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    [resource] = {part.resource.SerializeToString(deterministic=True) for m in messages for part in m.resource_spans}
    assert b"ziprerank" in resource


def test_a_collector_that_hangs_delays_neither_answers_nor_the_stop(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.3)
    with collector(monkeypatch):
        with running_service(fake_loader(reranker), tracing="otlp") as service:
            assert rerank_private(service, SAMPLED).status_code == 200
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 10
    assert "could not be exported within 0.3 s" in caplog.text


def test_every_log_line_of_a_request_carries_its_trace(
    reranker: Reranker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure_logging("info", more_fields=tracing.current_ids)
        with running_service(fake_loader(reranker), tracing=f"file:{tmp_path}/spans") as service:
            rerank_private(service, SAMPLED)
            rerank_private(service, {"traceparent": "nonsense"})
        logging.getLogger("elsewhere").info("nothing to do with a request")
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    first, second = (line for line in lines if "path=/rerank" in line)
    assert f" trace_id={TRACE_ID} span_id=" in first
    assert " trace_id=" in second and TRACE_ID not in second
    [outside] = [line for line in lines if "nothing to do" in line]
    assert "trace_id" not in outside


def test_a_wrong_destination_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for destination in ("on", "otpl", "file:", "console"):
        with pytest.raises(ValueError, match="ZIPRERANK_TRACING"):
            read_settings({"tracing": destination})
    with pytest.raises(ValueError, match="no folder"):
        read_settings({"tracing": f"file:{tmp_path}/a/spans.jsonl"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert read_settings({"tracing": "off"}).tracing == "off"
    with pytest.raises(ValueError, match=r"ziprerank\[otel\]"):
        read_settings({"tracing": "otlp"})
