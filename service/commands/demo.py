"""`ziprerank demo`: one real request from start to end, and then a page to send more.

Starts the service with the bundled checkpoint in a child process, sends it a bundled PDF over HTTP, prints the answer as a
table and the address of the playground, and serves until it is interrupted; with `--once` it stops the service at once.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.settings import PREFIX

PDF = Path(__file__).parents[1] / "demo" / "town-guide.pdf"
QUERY = "bank loan interest"
SHOWN = 5

_USUAL_PORT = 8000
_START_SECONDS = 120
_STOP_SECONDS = 60


def run_demo(*, once: bool) -> int:
    """Run the demo. Returns the exit code of the service, 0 after a clean stop. Raises: SystemExit with a message.

    once: end after the first answer, instead of at SIGINT or SIGTERM.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    port = _free_port()
    service = _start_service(port)
    try:
        _wait_until_ready(service, port)
        _show(_rerank(port))
        if not once:
            print(f"\nTry it with your own documents: http://127.0.0.1:{port}/playground#sample")
            print("Press Ctrl-C to stop.", flush=True)
            service.wait()
    except KeyboardInterrupt:
        pass
    finally:
        service.send_signal(signal.SIGTERM)
        exit_code = service.wait(_STOP_SECONDS)
    print(f"\nThe service stopped with exit code {exit_code}.")
    return exit_code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _free_port() -> int:
    """The usual port, where it is free, because its address is easy to remember; else another one."""
    for port in (_USUAL_PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise SystemExit("No port of 127.0.0.1 is free. Stop another program, and try again.")


def _start_service(port: int) -> "subprocess.Popen[bytes]":
    print("Starting the service on the bundled checkpoint …", flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    flags = ["--model", "demo", "--port", str(port), "--drain-delay-seconds", "0", "--log-level", "warning"]
    flags += ["--playground", "on"]
    flags += ["--document-store", "memory://demo"]  # never index the user's own documents with the demo model
    # In a session of its own: Ctrl-C stops this process, which then stops the service.
    command = [sys.executable, "-m", "service", *flags]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _wait_until_ready(service: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(f"The service ended with exit code {service.returncode} before it was ready.")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:  # not listening yet, or 503 while it loads
            time.sleep(0.1)
    raise SystemExit(f"The service was not ready within {_START_SECONDS} s.")


def _rerank(port: int) -> dict[str, Any]:
    body = {
        "query": QUERY,
        "documents": [{"pdf": base64.b64encode(PDF.read_bytes()).decode(), "id": PDF.name}],
        "ziprerank": {"include_timings": True},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/rerank",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        raise SystemExit(f"The service answered {error.code}: {error.read().decode()}") from error


def _show(answer: dict[str, Any]) -> None:
    results = answer["results"]
    print(f"\n{PDF.name}, {len(results)} pages. Query: {QUERY}\n")
    print(f"{'rank':>4}  {'score':>7}  page")
    for rank, result in enumerate(results[:SHOWN], start=1):
        print(f"{rank:>4}  {result['relevance_score']:>7.4f}  {result['id']}")
    print(f"\n{'stage':<10}{'ms':>9}")
    for stage, milliseconds in answer["ziprerank"]["timings_ms"].items():
        print(f"{stage:<10}{milliseconds:>9.1f}")
    tokens = answer["ziprerank"]["visual_tokens"]
    print(f"\nVisual tokens: {tokens['before']} before pruning, {tokens['after']} after.")
    print(
        f"\nThis is the small demo model: it finds common words in large print, no more. Open {PDF} to compare. "
        "For real documents: ziprerank serve --model mtri-admin/ZipRerank"
    )
