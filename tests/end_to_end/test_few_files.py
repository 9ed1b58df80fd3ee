"""A process with few files and many idle clients."""

import re
import socket
import threading
from contextlib import ExitStack

import httpx

from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, wait_until_ready
from tests.processes import process


def test_400_idle_clients_of_a_process_with_256_files_neither_stop_it_nor_fill_its_log() -> None:
    flags = "--model", "demo", "--device", "cpu", "--port", "0", "--rasterizer-processes", "1"
    with process(*flags, module="tests.end_to_end.few_files") as running:
        lines: list[str] = []
        is_listening = threading.Event()

        def read() -> None:
            assert running.stderr is not None
            for line in running.stderr:
                lines.append(line)
                if "listening on" in line:
                    is_listening.set()

        threading.Thread(target=read, daemon=True).start()
        assert is_listening.wait(PATIENCE_SECONDS), lines
        found = re.search(r"listening on (http://127\.0\.0\.1:(\d+))", "".join(lines))
        assert found
        assert any("at most 152, by the limit of 256 open files" in line for line in lines)
        with httpx.Client(base_url=found[1], timeout=PATIENCE_SECONDS) as client:
            wait_until_ready(client)
        before = len(lines)
        files = [("file", ("a.pdf", make_pdf(1), "application/pdf"))]
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(socket.create_connection(("127.0.0.1", int(found[2])), timeout=PATIENCE_SECONDS))
            for _ in range(5):
                with httpx.Client(base_url=found[1], timeout=PATIENCE_SECONDS) as client:
                    assert client.post("/rerank", data={"query": "a"}, files=files).status_code == 200
        assert len(lines) - before <= 30, lines[before:][:30]
