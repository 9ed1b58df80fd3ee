"""The service as an operator runs it: a process with flags and variables, signals and exit codes."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, eventually, wait_until_ready
from tests.processes import listening_url, process


def test_a_pdf_of_more_than_30_pages_is_ranked_through_windows_and_sigterm_drains() -> None:
    with process("--model", "demo", "--port", "0", "--drain-delay-seconds", "0.2", "--device", "cpu") as running:
        with httpx.Client(base_url=listening_url(running), timeout=PATIENCE_SECONDS) as client:
            wait_until_ready(client)
            files = [("file", ("long.pdf", make_pdf(33, width=320, height=448), "application/pdf"))]
            answer = client.post("/rerank", data={"query": "the last page"}, files=files)
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert sorted(result["page"] for result in body["results"]) == list(range(1, 34))
            assert body["meta"]["windows"] == 3 and body["meta"]["score"] == "rank"
            running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE_SECONDS) == 0


def test_a_request_in_flight_is_finished_after_sigterm() -> None:
    with process("--model", "demo", "--port", "0", "--drain-delay-seconds", "0", "--device", "cpu") as running:
        with httpx.Client(base_url=listening_url(running), timeout=PATIENCE_SECONDS) as client:
            wait_until_ready(client)
            files = [("file", ("long.pdf", make_pdf(60), "application/pdf"))]
            answers: list[httpx.Response] = []
            sender = threading.Thread(
                target=lambda: answers.append(client.post("/rerank", data={"query": "a", "pages": "1-24"}, files=files))
            )
            sender.start()
            metrics = f"{client.base_url}/metrics"
            eventually(lambda: "ziprerank_requests_in_flight 1.0" in httpx.get(metrics).text)
            running.send_signal(signal.SIGTERM)
            sender.join(PATIENCE_SECONDS)
            assert [answer.status_code for answer in answers] == [200]
        assert running.wait(PATIENCE_SECONDS) == 0


def test_a_lost_device_is_not_ready_and_ends_the_process_with_70() -> None:
    """The exit code that the runbook promises."""
    flags = "--model", "demo", "--port", "0", "--device", "cpu", "--drain-grace-seconds", "5"
    with process(*flags, module="tests.end_to_end.lost_device") as running, ThreadPoolExecutor(1) as threads:
        with httpx.Client(base_url=listening_url(running), timeout=60) as client:
            wait_until_ready(client)
            files = [("file", ("a.pdf", make_pdf(1), "application/pdf"))]
            answer = threads.submit(client.post, "/rerank", data={"query": "a"}, files=files)
            eventually(lambda: client.get("/readyz").status_code != 200)
            assert client.get("/readyz").json()["code"] == "gpu_failed"
            assert client.get("/livez").status_code == 500
            assert client.post("/rerank", data={"query": "a"}, files=files).json()["code"] == "gpu_failed"
            assert running.poll() is None and not answer.done()
            assert running.stdin is not None
            print(file=running.stdin, flush=True)  # now it may end
            answered = answer.result(PATIENCE_SECONDS)
            assert (answered.status_code, answered.json()["code"]) == (503, "gpu_failed")
        assert running.wait(PATIENCE_SECONDS) == 70


def test_a_checkpoint_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    with process("--model", str(tmp_path), "--port", "0") as running:
        _, log = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 1
        assert "config.json is missing" in log


def test_a_budget_below_the_longest_window_ends_the_process() -> None:
    with process("--model", "demo", "--port", "0", ZIPRERANK_MAX_BATCH_TOKENS="1000") as running:
        _, log = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 1
        assert "max_batch_tokens is 1000" in log


def test_a_kernel_that_cannot_run_ends_the_process() -> None:
    with process("--model", "demo", "--port", "0", "--device", "cpu", "--attention", "flash-attn") as running:
        _, log = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 1
        assert "attention is 'flash-attn', but it needs CUDA and the device is cpu" in log


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        ((), {"ZIPRERANK_MAX_PAGE": "5"}, "did you mean ZIPRERANK_MAX_PAGES"),
        (("--keep-ratio", "7"), {}, "ZIPRERANK_KEEP_RATIO"),
    ],
)
def test_wrong_settings_are_told_at_once(flags: tuple[str, ...], variables: dict[str, str], said: str) -> None:
    with process(*flags, **variables) as running:
        _, log = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 2
        assert said in log
