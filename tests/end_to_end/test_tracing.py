"""One request's way through the processes and threads of a real service, as its trace tells it."""

import re
import signal
import threading
from pathlib import Path

import httpx

from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, eventually, wait_until_ready
from tests.processes import process
from tests.spans import read_spans

TRACE_ID, CALLER_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["parse", "render", "prepare", "queue", "upload", "vision", "compress", "pack", "language", "respond"]
DEVICE_STAGES = {"queue", "upload", "vision", "compress", "pack", "language"}


def test_a_request_has_one_trace_through_the_raster_process_and_the_device_thread(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    flags = ("--model", "demo", "--port", "0", "--device", "cpu", "--drain-delay-seconds", "0", "--replica", "gpu-7")
    log: list[str] = []
    with process(*flags, "--tracing", f"file:{file}", OTEL_SERVICE_NAME="search-rerank") as running:
        reader = threading.Thread(target=lambda: log.extend(running.stderr or ()))
        reader.start()
        eventually(lambda: any("listening on" in line for line in log))
        [url] = re.findall(r"listening on (http://\S+)", "".join(log))
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
            wait_until_ready(client)
            answer = client.post(
                "/v1/rerank",
                data={"query": "a secret question", "top_n": "2"},
                files=[("file", ("secret-name.pdf", make_pdf(3), "application/pdf"))],
                headers={"traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01", "X-ZipRerank-Affinity": "secret-key"},
            )
            assert answer.status_code == 200, answer.text
            running.send_signal(signal.SIGTERM)  # the end of the drain exports what is left
        assert running.wait(PATIENCE_SECONDS) == 0
        reader.join(PATIENCE_SECONDS)

    spans = read_spans(file)
    assert {span.trace_id for span in spans} == {TRACE_ID}  # readiness probes leave no spans
    server, rerank, *rest = spans
    assert (server.name, server.kind, server.parent_id) == ("POST /v1/rerank", "SERVER", CALLER_ID)
    assert server.attributes["http.response.status_code"] == 200
    assert (rerank.name, rerank.parent_id) == ("rerank ziprerank", server.span_id)
    assert {span.parent_id for span in rest} == {rerank.span_id}

    stages = [span for span in rest if span.name != "score batch"]
    assert list(dict.fromkeys(span.name for span in stages)) == STAGES
    [batch] = [span for span in rest if span.name == "score batch"]
    assert batch.linked_ids == (rerank.span_id,) and batch.attributes["ziprerank.batch.pages"] == 3
    for span in stages:
        assert rerank.began <= span.began <= span.ended <= rerank.ended, span.name
        assert span.linked_ids == ((batch.span_id,) if span.name in DEVICE_STAGES else ()), span.name
    rendered = [span for span in stages if span.name == "render"]
    assert sorted(span.attributes["ziprerank.page"] for span in rendered) == [1, 2, 3]

    told = rerank.attributes
    assert told["openinference.span.kind"] == "RERANKER" and told["reranker.model_name"] == "demo"
    assert told["reranker.top_k"] == 2 and told["ziprerank.pages"] == 3 and told["ziprerank.cache.misses"] == 3
    assert 0 < told["ziprerank.visual_tokens.after"] < told["ziprerank.visual_tokens.before"]
    assert server.resource["service.name"] == "search-rerank" and server.resource["service.instance.id"] == "gpu-7"
    assert "secret" not in file.read_text()

    [line] = [line for line in log if "path=/v1/rerank" in line]
    assert f"trace_id={TRACE_ID} span_id={server.span_id}" in line and "replica=gpu-7" in line
    assert "secret" not in "".join(log)


def test_tracing_without_its_folder_is_told_at_once(tmp_path: Path) -> None:
    with process("--tracing", f"file:{tmp_path}/nowhere/spans.jsonl") as running:
        _, log = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 2 and "ZIPRERANK_TRACING" in log and "no folder" in log
