"""The service that is measured: one that runs already, or one started here as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import httpx

from benchmarks.http_load.corpus import Upload

_START_SECONDS = 600
_STOP_SECONDS = 60
_REGISTER_SECONDS = 600
_POLL_SECONDS = 0.1


@contextmanager
def started_service(
    model: str, flags: Sequence[str], *, before_exec: Callable[[], None] | None = None
) -> Iterator[str]:
    """The address of a service that is stopped in the end. `flags` are those of `ziprerank serve`.

    before_exec: is called in the new process, before the service's program replaces this one's.
    """
    with started_process(model, flags, before_exec=before_exec) as (url, _):
        yield url


@contextmanager
def started_process(
    model: str,
    flags: Sequence[str],
    *,
    variables: Mapping[str, str] = MappingProxyType({}),
    before_exec: Callable[[], None] | None = None,
) -> Iterator[tuple[str, int]]:
    """As `started_service`, with variables added to the environment: the address and the process id."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as documents:
        own = ["--model", model, "--port", str(port), "--document-store", documents, "--log-level", "warning"]
        command = [sys.executable, "-m", "service", *own, "--drain-delay-seconds", "0", *flags]
        with subprocess.Popen(command, env={**os.environ, **variables}, preexec_fn=before_exec) as service:
            try:
                url = f"http://127.0.0.1:{port}"
                _wait_until_ready(service, url)
                yield url, service.pid
            finally:
                service.send_signal(signal.SIGTERM)
                service.wait(_STOP_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(service: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(f"The service ended with exit code {service.returncode} before it was ready.")
        if _is_ready(url):
            return
        time.sleep(_POLL_SECONDS)
    raise SystemExit(f"The service was not ready within {_START_SECONDS} s.")


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def register(url: str, uploads: Sequence[Upload]) -> None:
    """Store the documents in the service and wait until their pages are encoded."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for upload in uploads:
            headers = {"Content-Type": "application/pdf"}
            client.put(f"/documents/{upload.document_id}", content=upload.pdf, headers=headers).raise_for_status()
        for upload in uploads:
            _wait_until_registered(client, upload.document_id)


def _wait_until_registered(client: httpx.Client, document_id: str) -> None:
    deadline = time.monotonic() + _REGISTER_SECONDS
    while time.monotonic() < deadline:
        state = client.get(f"/documents/{document_id}").raise_for_status().json()["state"]
        if state == "ready":
            return
        if state == "failed":
            raise SystemExit(f"The service could not read its copy of {document_id}.")
        time.sleep(_POLL_SECONDS)
    raise SystemExit(f"{document_id} was not ready within {_REGISTER_SECONDS} s.")


def read_metrics(url: str, *, key: str | None = None) -> dict[str, float]:
    """Every sample of /metrics by its series, as written there."""
    lines = httpx.get(f"{url}/metrics", timeout=30, headers=_key_header(key)).text.splitlines()
    samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {series: float(value) for series, _, value in samples}


def describe(url: str, *, key: str | None = None) -> dict[str, Any]:
    """What is running there, as /info says."""
    info = httpx.get(f"{url}/info", timeout=30, headers=_key_header(key)).json()
    return {name: info[name] for name in ("model", "gpu", "dtype", "attention", "window")}


def _key_header(key: str | None) -> dict[str, str]:
    return {"X-API-Key": key} if key else {}
