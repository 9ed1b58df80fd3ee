"""Three processes of the service behind a real HAProxy that reads docker/haproxy.cfg; addresses alone are filled in."""

import csv
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.processes import (
    PATIENCE_SECONDS,
    answers,
    eventually,
    free_port,
    metric,
    replica,
    request_of_one_page,
    tool_process,
    wait_for_replica,
)
from tests.deploy.tools import HAPROXY

REPLICAS = 3
KEYS = [f"document-{number}" for number in range(12)]
SERVED_BY = "x-test-server"  # which server HAProxy chose, by its own account
LOAD_THREADS = 3


@dataclass
class Fleet:
    """The replicas, and the balancer in front of them."""

    ports: list[int]
    url: str
    statistics_url: str
    store: Path
    running: list[Any] = field(default_factory=list)

    def ask(self, key: str | None = None, *, page: int = 0, **headers: str) -> httpx.Response:
        if key is not None:
            headers["X-ZipRerank-Affinity"] = key
        return httpx.post(
            f"{self.url}/rerank", json=request_of_one_page(page), headers=headers, timeout=PATIENCE_SECONDS
        )

    def server_of(self, key: str) -> str:
        answer = self.ask(key, page=KEYS.index(key))
        assert answer.status_code == 200, answer.text
        return answer.headers[SERVED_BY]

    def homes(self) -> dict[str, str]:
        """Which server each key meets."""
        return {key: self.server_of(key) for key in KEYS}

    def status(self, server: str) -> str:
        """UP, DOWN, … as HAProxy's health check sees it."""
        rows = csv.DictReader(
            httpx.get(f"{self.statistics_url}/;csv", timeout=PATIENCE_SECONDS).text.lstrip("# ").splitlines()
        )
        return next(row["status"] for row in rows if (row["pxname"], row["svname"]) == ("replicas", server))

    def count(self, name: str) -> float:
        """Pages, over all replicas."""
        return sum(metric(port, name, cache="vision") for port in self.ports)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    ports, front, statistics = [free_port() for _ in range(REPLICAS)], free_port(), free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(filled_in(ports, front=front, statistics=statistics))
    fleet = Fleet(
        ports=ports,
        url=f"http://127.0.0.1:{front}",
        statistics_url=f"http://127.0.0.1:{statistics}",
        store=folder / "documents",
    )
    with ExitStack() as stack:
        fleet.running = [stack.enter_context(replica(port, fleet.store)) for port in ports]
        for port in ports:
            wait_for_replica(port)
        stack.enter_context(tool_process("haproxy", "-db", "-f", configuration, log=folder / "haproxy.log"))
        eventually(lambda: answers(f"{fleet.url}/readyz"))
        yield fleet


def filled_in(ports: list[int], *, front: int, statistics: int) -> str:
    """The project's configuration on this machine's ports. Servers 3 to 7 keep names that nobody resolves."""
    text = HAPROXY.read_text().replace("bind :8000", f"bind 127.0.0.1:{front}")
    text = text.replace("bind :8404", f"bind 127.0.0.1:{statistics}")
    for number, port in enumerate(ports):
        text = text.replace(f"ziprerank-{number}:8000", f"127.0.0.1:{port}")
    return re.sub(
        r"^backend replicas$", rf"\g<0>\n    http-response set-header {SERVED_BY} %s", text, flags=re.MULTILINE
    )


def test_requests_without_a_key_spread(fleet: Fleet) -> None:
    servers = Counter(fleet.ask().headers[SERVED_BY] for _ in range(8 * REPLICAS))
    assert len(servers) == REPLICAS and min(servers.values()) >= 4, servers


def test_a_key_meets_one_replica_and_its_pages_are_encoded_once_in_the_fleet(fleet: Fleet) -> None:
    hits, misses = fleet.count("ziprerank_cache_hits_total"), fleet.count("ziprerank_cache_misses_total")
    homes = fleet.homes()
    assert len(set(homes.values())) == REPLICAS, "12 keys leave no replica out"
    encoded = fleet.count("ziprerank_cache_misses_total") - misses
    assert [fleet.homes() for _ in range(3)] == [homes] * 3
    assert fleet.count("ziprerank_cache_misses_total") - misses == encoded <= len(KEYS)
    assert fleet.count("ziprerank_cache_hits_total") - hits >= 3 * len(KEYS)


def test_the_id_in_the_path_is_the_same_key(fleet: Fleet) -> None:
    for key in KEYS[:4]:
        paths = (f"/v1/documents/{key}", f"/documents/{key}", f"/v1/documents/{key}/rerank")
        servers = {httpx.get(fleet.url + path, timeout=PATIENCE_SECONDS).headers[SERVED_BY] for path in paths}
        assert servers == {fleet.server_of(key)}


def test_a_client_cannot_set_the_balancers_own_header(fleet: Fleet) -> None:
    servers = {fleet.ask(**{"X-Affinity-Key": KEYS[0]}).headers[SERVED_BY] for _ in range(8)}
    assert len(servers) > 1


def test_a_hot_key_is_helped_by_other_replicas(fleet: Fleet) -> None:
    with ThreadPoolExecutor(max_workers=12) as threads:
        answers = list(threads.map(lambda _: fleet.ask(KEYS[0]), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers[SERVED_BY] for answer in answers}) > 1


def test_the_balancer_answers_for_no_replica_at_metrics(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.url}/metrics", timeout=PATIENCE_SECONDS).status_code == 404
    assert "haproxy_server_status" in httpx.get(f"{fleet.statistics_url}/metrics", timeout=PATIENCE_SECONDS).text


def test_a_killed_replica_loses_only_its_own_keys_and_gets_them_back(fleet: Fleet) -> None:
    homes = fleet.homes()
    killed = homes[KEYS[0]]
    number = int(killed.removeprefix("replica-"))
    with Load(fleet) as load:
        eventually(lambda: len(load.answers) > 3 * LOAD_THREADS)
        fleet.running[number].kill()
        fleet.running[number].wait()
        eventually(lambda: fleet.status(killed).startswith("DOWN"))
        seen_down = time.monotonic()
        eventually(lambda: sum(answer.began > seen_down for answer in load.answers) > len(KEYS))
    failed = [answer for answer in load.answers if answer.status != 200]
    assert len(failed) <= LOAD_THREADS, (
        "a thread has one request in flight: more were not in the killed process's hands"
    )
    assert {answer.status for answer in failed} <= {502}
    assert all(answer.began < seen_down for answer in failed)

    moved = fleet.homes()
    assert {key: home for key, home in moved.items() if homes[key] != killed} == {
        key: home for key, home in homes.items() if home != killed
    }
    assert killed not in moved.values()

    with replica(fleet.ports[number], fleet.store) as fleet.running[number]:
        eventually(lambda: fleet.status(killed) == "UP")
        assert fleet.homes() == homes


@dataclass(frozen=True)
class Answer:
    began: float
    status: int


class Load:
    """Clients that ask about one document after the other until the block ends."""

    def __init__(self, fleet: Fleet) -> None:
        self.answers: list[Answer] = []
        self._fleet = fleet
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(first,)) for first in range(LOAD_THREADS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, first: int) -> None:
        number = first
        while not self._enough.is_set():
            began = time.monotonic()
            status = self._fleet.ask(KEYS[number % len(KEYS)], page=number % len(KEYS)).status_code
            self.answers.append(Answer(began, status))
            number += LOAD_THREADS + 1
