"""A real Prometheus on live services: what it records, what the dashboard would draw, and that a fault raises its alert.

Prometheus reads the project's own configuration and rules. Filled in: addresses, a faster pace, `for: 15s` for minutes.
"""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from tests.deploy.expressions import RULES, dashboard_queries, recordings, series_in
from tests.deploy.fleet import MAX_REQUESTS, REPLICAS, Fleet
from tests.deploy.processes import answers, repeating, request_of_one_page, tool_process
from tests.deploy.tools import DEPLOY
from tests.documents import make_endless_pdf, make_pdf, make_tiff
from tests.patience import PATIENCE_SECONDS, eventually
from tests.processes import free_port

CONFIGURATION = DEPLOY / "prometheus" / "prometheus.yml"
CARD_ONLY = {"ziprerank_gpu_memory_bytes"}  # a CPU has no such memory
PACE = {"scrape_interval": "3s", "scrape_timeout": "3s", "evaluation_interval": "1s"}
RATE_INTERVAL = "30s"


@dataclass(frozen=True)
class Prometheus:
    url: str

    def values(self, expression: str) -> list[float]:
        """The samples of an instant query that are numbers."""
        query = {"query": expression}
        answer = httpx.get(f"{self.url}/api/v1/query", params=query, timeout=PATIENCE_SECONDS).json()
        assert answer["status"] == "success", answer
        values = [float(sample["value"][1]) for sample in answer["data"]["result"]]
        return [value for value in values if value == value]

    def firing(self) -> set[str]:
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=PATIENCE_SECONDS).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@pytest.fixture
def prometheus(fleet: Fleet, tmp_path: Path) -> Iterator[Prometheus]:
    """Scrapes the replicas of the fleet."""
    port = free_port()
    arguments = (
        f"--config.file={filled_in(tmp_path, fleet.ports)}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    )
    with tool_process("prometheus", *arguments, log=tmp_path / "prometheus.log"):
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        eventually(lambda: answers(f"{prometheus.url}/-/ready"))
        yield prometheus


def filled_in(folder: Path, ports: list[int]) -> Path:
    """The project's configuration, on this machine's ports."""
    rules = folder / "rules" / RULES.name
    rules.parent.mkdir()
    rules.write_text(re.sub(r"^( +for:) \d+m$", r"\1 15s", RULES.read_text(), flags=re.MULTILINE))
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    configuration["global"] |= PACE
    service = configuration["scrape_configs"][0]
    for by_name in ("dns_sd_configs", "relabel_configs"):
        del service[by_name]
    service["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    configuration["scrape_configs"] = [service]
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump(configuration))
    return written


@contextmanager
def clients(*senders: Callable[[httpx.Client, int], object], port: int) -> Iterator[None]:
    """Send until the block ends: work for every panel, or too much for one replica."""
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
        repeating(*(partial(send, client) for send in senders)),
    ):
        yield


def send_an_image(client: httpx.Client, number: int) -> None:
    client.post("/rerank", json=request_of_one_page(number % 6))  # six pages, again and again


def send_a_document(client: httpx.Client, number: int) -> None:
    files = [("file", ("report.pdf", make_pdf(1 + number % 3, width=64, height=64), "application/pdf"))]
    client.post("/rerank", data={"query": "locks"}, files=files)


def send_an_odd_document(client: httpx.Client) -> None:
    """One that the raster process does not survive."""
    answer = client.post(
        "/rerank", data={"query": "a"}, files=[("file", ("a.pdf", make_endless_pdf(), "application/pdf"))]
    )
    assert answer.status_code == 422, answer.text


def register_a_document(client: httpx.Client) -> None:
    sent = client.put("/documents/report", content=make_tiff([(64, 64)] * 2), headers={"content-type": "image/tiff"})
    assert sent.status_code == 202, sent.text


def hang_up(port: int) -> None:
    """Send a request and go away before it is answered."""
    body = httpx.Request("POST", "http://replica/rerank", json=request_of_one_page(999_999)).content
    head = f"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)


def test_recordings_panels_and_alerts_live(fleet: Fleet, prometheus: Prometheus) -> None:
    """One test, because each part needs the load and the time of the part before."""
    calm, crowded, lost = fleet.ports
    eventually(lambda: prometheus.values('sum(up{job="ziprerank"})') == [REPLICAS])
    with clients(send_an_image, send_a_document, port=calm):
        with httpx.Client(base_url=f"http://127.0.0.1:{calm}", timeout=PATIENCE_SECONDS) as client:
            register_a_document(client)
            send_an_odd_document(client)
        assert not {"ZipRerankRefusing", "ZipRerankReplicaUnreachable"} & prometheus.firing()

        with clients(*[send_an_image] * (MAX_REQUESTS + 4), port=crowded):
            eventually(lambda: hangs_up_and_is_counted(prometheus, calm))
            eventually(lambda: "ZipRerankRefusing" in prometheus.firing())
            assert missing_values(prometheus, [(name, name) for name in recordings()]) == []
        empty = missing_values(prometheus, list(dashboard_queries(interval=RATE_INTERVAL)))
        assert [title for title, query in empty if not series_in(query) <= CARD_ONLY] == []

    assert "ZipRerankReplicaUnreachable" not in prometheus.firing()
    fleet.kill(fleet.ports.index(lost))
    try:
        eventually(lambda: "ZipRerankReplicaUnreachable" in prometheus.firing())
    finally:
        fleet.start(fleet.ports.index(lost))


def hangs_up_and_is_counted(prometheus: Prometheus, port: int) -> bool:
    """Whether a client that goes away has been seen: one may be too late, after its answer."""
    hang_up(port)
    return bool(prometheus.values("sum(ziprerank_cancellations_total) > 0"))


def missing_values(prometheus: Prometheus, queries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Titles and expressions that give no number, however long one waits."""
    missing = queries

    def nothing_is_missing() -> bool:
        nonlocal missing
        missing = [(title, query) for title, query in missing if not prometheus.values(query)]
        return all(series_in(query) <= CARD_ONLY for _, query in missing)

    with suppress(AssertionError):
        eventually(nothing_is_missing)
    return missing
