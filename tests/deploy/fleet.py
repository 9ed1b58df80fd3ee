"""Three processes of the service behind a real HAProxy that reads docker/haproxy.cfg; addresses alone are filled in."""

import csv
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from tests.deploy.processes import answers, metric, replica, request_of_one_page, tool_process
from tests.deploy.tools import HAPROXY
from tests.patience import PATIENCE_SECONDS, eventually
from tests.processes import free_port

REPLICAS = 3
MAX_REQUESTS = 16
"""Requests that a replica works on at once; more are refused. Few, so that a test can be too much for it."""

SERVED_BY = "x-test-server"
"""Header with the server that the balancer chose, by its own account."""


@dataclass
class Fleet:
    """The replicas, and the balancer in front of them."""

    ports: list[int]
    url: str
    statistics_url: str
    store: Path
    closing: ExitStack
    flags: tuple[str, ...]  # of each replica
    running: list[Any] = field(default_factory=list)

    def start(self, number: int) -> None:
        """Start the replica of this number, in a new process on its old port."""
        started = replica(self.ports[number], self.store, *self.flags)
        self.running[number:] = [self.closing.enter_context(started), *self.running[number + 1 :]]

    def kill(self, number: int) -> None:
        self.running[number].kill()
        self.running[number].wait()

    def stop(self, number: int) -> int:
        """Tell the replica of this number to stop, as an orchestrator does; its exit code."""
        self.running[number].send_signal(signal.SIGTERM)
        return int(self.running[number].wait(PATIENCE_SECONDS))

    def ask(
        self, key: str | None = None, *, page: int = 0, headers: Mapping[str, str] = MappingProxyType({})
    ) -> httpx.Response:
        """One small request through the balancer."""
        own = {} if key is None else {"X-ZipRerank-Affinity": key}
        return httpx.post(
            f"{self.url}/rerank", json=request_of_one_page(page), headers={**headers, **own}, timeout=PATIENCE_SECONDS
        )

    def status(self, server: str) -> str:
        """UP, DOWN, … as HAProxy's health check sees it."""
        text = httpx.get(f"{self.statistics_url}/;csv", timeout=PATIENCE_SECONDS).text
        rows = csv.DictReader(text.lstrip("# ").splitlines())
        return next(row["status"] for row in rows if (row["pxname"], row["svname"]) == ("replicas", server))

    def pages(self, name: str) -> float:
        """A counter of the feature cache, over all replicas."""
        return sum(metric(port, name, cache="vision") for port in self.ports)


@contextmanager
def running_fleet(
    folder: Path, *flags: str, replicas: int = REPLICAS, max_requests: int = MAX_REQUESTS
) -> Iterator[Fleet]:
    """All replicas ready, and the balancer too."""
    ports, front, statistics = [free_port() for _ in range(replicas)], free_port(), free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(filled_in(ports, front=front, statistics=statistics))
    with ExitStack() as closing:
        fleet = Fleet(
            ports=ports,
            url=f"http://127.0.0.1:{front}",
            statistics_url=f"http://127.0.0.1:{statistics}",
            store=folder / "documents",
            closing=closing,
            flags=("--max-concurrent-requests", str(max_requests), *flags),
        )
        for number in range(replicas):
            fleet.start(number)
        for port in ports:
            eventually(partial(answers, f"http://127.0.0.1:{port}/readyz"))
        closing.enter_context(tool_process("haproxy", "-db", "-f", configuration, log=folder / "haproxy.log"))
        eventually(lambda: answers(f"{fleet.url}/readyz"))
        yield fleet


def filled_in(ports: list[int], *, front: int, statistics: int) -> str:
    """The project's configuration on this machine's ports. Servers 3 to 7 keep names that nobody resolves."""
    text = HAPROXY.read_text().replace("bind :8000", f"bind 127.0.0.1:{front}")
    text = text.replace("bind :8404", f"bind 127.0.0.1:{statistics}")
    for number, port in enumerate(ports):
        text = text.replace(f"ziprerank-{number}:8000", f"127.0.0.1:{port}")
    header = f"    http-response set-header {SERVED_BY} %s"
    return re.sub(r"^backend replicas$", rf"\g<0>\n{header}", text, flags=re.MULTILINE)
