"""deploy/ray/config.yaml on a real Ray cluster of this machine, with invented GPUs and the demo checkpoint on the CPU.

Ray runs in processes of its own, is started as the README says, and is asked over the REST interface that `serve deploy` uses.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.documents import make_pdf
from tests.patience import eventually
from tests.processes import free_port

if find_spec("ray") is None:
    pytest.skip("the extra [ray] is not installed", allow_module_level=True)

PROJECT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
INVENTED_GPUS = 4
REPLICAS = 3
ANSWER_SECONDS = 120
METRICS_PORTS = range(9400, 9400 + REPLICAS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A one-node Ray cluster: its dashboard's REST interface, and the service behind Serve's proxy."""

    dashboard: httpx.Client
    service: httpx.Client
    config: dict[str, Any]

    def deploy(self, **deployment: Any) -> None:
        """The configuration with some of the deployment's options changed."""
        application = self.config["applications"][0]
        options = {**application["deployments"][0], **deployment}
        content = {**self.config, "applications": [{**application, "deployments": [options]}]}
        answer = self.dashboard.put("/api/serve/applications/", json=content)
        assert answer.status_code == 200, answer.text

    def running(self) -> dict[str, int]:
        """Process id by replica, of those that serve."""
        application = self.dashboard.get("/api/serve/applications/").json()["applications"].get("ziprerank", {})
        replicas = application.get("deployments", {}).get("ziprerank", {}).get("replicas", [])
        return {replica["replica_id"]: replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}

    def rerank(self, key: str | None, pdf: bytes) -> httpx.Response:
        headers = {} if key is None else {"X-ZipRerank-Affinity": key}
        form = {"query": "lens"}
        return self.service.post("/rerank", headers=headers, data=form, files=[("file", ("a.pdf", pdf))])

    def counts(self, series: str) -> list[float]:
        """A series' value at each replica's own port."""
        return [_value(httpx.get(f"http://127.0.0.1:{port}/metrics").text, series) for port in METRICS_PORTS]


def _value(exposition: str, series: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in exposition.splitlines() if line.startswith(series))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Ray's own files go to a folder with a short name: its sockets' paths have a limit."""
    dashboard_port, service_port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZIPRERANK_")} | {
        "PYTHONPATH": str(PROJECT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_SESSION_ID_HEADER_KEY": "x-ziprerank-affinity",
        "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5",  # patience with a busy machine
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    }
    start = ["start", "--head", "--block", "--port=0", "--node-ip-address=127.0.0.1", f"--num-gpus={INVENTED_GPUS}"]
    options = ["--num-cpus=8", f"--dashboard-port={dashboard_port}", "--object-store-memory=200000000"]
    log = tmp_path_factory.mktemp("ray") / "ray.log"
    with log.open("w") as output:
        head = subprocess.Popen([str(RAY), *start, *options], env=environment, stdout=output, stderr=output)
    try:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{dashboard_port}", timeout=60) as dashboard,
            httpx.Client(base_url=f"http://127.0.0.1:{service_port}", timeout=ANSWER_SECONDS) as service,
        ):
            eventually(lambda: _has_started(head, log), "Ray starts")
            eventually(lambda: _answers(dashboard, "/api/version"), "its dashboard answers")
            yield Cluster(dashboard=dashboard, service=service, config=_config(service_port))
    finally:
        head.terminate()
        head.wait(ANSWER_SECONDS)


def _config(port: int) -> dict[str, Any]:
    """The configuration that is shipped, for this machine: the demo checkpoint, on the CPU."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "ray" / "config.yaml").read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    config["applications"][0]["runtime_env"]["env_vars"] |= {
        "ZIPRERANK_MODEL": "demo",
        "ZIPRERANK_DEVICE": "cpu",
        "ZIPRERANK_RASTERIZER_PROCESSES": "1",
        "ZIPRERANK_DOCUMENT_STORE": "memory://ray",
    }
    config["applications"][0]["deployments"][0]["ray_actor_options"]["num_cpus"] = 1
    return config


def _has_started(head: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Ray gives up where starting takes more than 30 s, as it may on a machine that is busy with something else."""
    assert head.poll() is None, log.read_text()
    return "Ray runtime started" in log.read_text()


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def three(cluster: Cluster) -> Cluster:
    """Three replicas: one, and under a backlog two more, which stay. Requests in progress cannot explain them: 48 of 64."""
    cluster.deploy(autoscaling_config=_scaling(cluster, downscale_delay_s=3600))
    first = eventually(lambda: len(cluster.running()) == 1, "one replica runs")
    with Load(cluster, clients=48, pages=8):
        more = eventually(lambda: len(cluster.running()) == REPLICAS, "a service with a backlog grows")
    print(f"one replica after {first:.0f} s, {REPLICAS} under load after {more:.0f} s more")
    eventually(lambda: _reaches_all(cluster), "the proxy knows the three")
    return cluster


def _scaling(cluster: Cluster, *, downscale_delay_s: float) -> dict[str, Any]:
    """The shipped rule with delays for a test."""
    shipped: dict[str, Any] = cluster.config["applications"][0]["deployments"][0]["autoscaling_config"]
    return shipped | {
        "max_replicas": REPLICAS,
        "target_ongoing_requests": 64,
        "upscale_delay_s": 1,
        "downscale_delay_s": downscale_delay_s,
        "look_back_period_s": 4,
    }


def _reaches_all(cluster: Cluster) -> bool:
    """The proxy learns of a replica a little after it runs, and then changes its ring."""
    assert cluster.rerank(None, make_pdf(2)).status_code == 200
    return min(cluster.counts("ziprerank_requests_total")) > 0


@dataclass(slots=True)
class Load:
    """Clients that each ask about their own document, one request after the other."""

    cluster: Cluster
    clients: int
    pages: int = 2  # of a document
    sent: list[tuple[float, float, int]] = field(default_factory=list)  # when, until when, status
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._threads += [threading.Thread(target=self._ask, args=(f"document-{n}",)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)

    def _ask(self, key: str) -> None:
        pdf = make_pdf(self.pages, width=320, height=448)
        while not self._stop.is_set():
            started = time.monotonic()
            status = self.cluster.rerank(key, pdf).status_code
            self.sent.append((started, time.monotonic(), status))


def test_one_key_meets_one_replica_and_its_cache(three: Cluster) -> None:
    served, hits = "ziprerank_requests_total", 'ziprerank_cache_hits_total{cache="vision"}'
    pdf = make_pdf(2, width=320, height=448)
    before, hits_before = three.counts(served), three.counts(hits)
    for _ in range(6):
        assert three.rerank("handbook", pdf).status_code == 200
    gained = [now - then for now, then in zip(three.counts(served), before, strict=True)]
    assert sorted(gained) == [0, 0, 6]
    hits_gained = [now - then for now, then in zip(three.counts(hits), hits_before, strict=True)]
    assert sorted(hits_gained) == [0, 0, 10]  # all but the first request's two pages


def test_requests_without_a_key_spread(three: Cluster) -> None:
    pdf = make_pdf(2, width=320, height=448)
    before = three.counts("ziprerank_requests_total")
    for _ in range(24):
        assert three.rerank(None, pdf).status_code == 200
    gained = [now - then for now, then in zip(three.counts("ziprerank_requests_total"), before, strict=True)]
    assert sum(gained) == 24 and min(gained) > 0


def test_a_killed_replica_is_replaced_and_only_what_it_held_fails(three: Cluster) -> None:
    before = three.running()
    victim, process = next(iter(before.items()))
    with Load(three, clients=8) as load:
        eventually(lambda: len(load.sent) > 40, "the load runs")
        os.kill(process, signal.SIGKILL)
        killed_at = time.monotonic()
        eventually(lambda: len(three.running().keys() - {victim}) == REPLICAS, "the replica is replaced")
        after = len(load.sent)
        eventually(lambda: len(load.sent) > after + 40, "the load goes on")
    failed = [(start - killed_at, end - killed_at, status) for start, end, status in load.sent if status != 200]
    print(f"{len(load.sent)} requests; failed, from when until when, with what: {failed}")
    assert all(start <= 0 <= end for start, end, _ in failed)
    assert victim not in three.running()


def test_replicas_go_when_nothing_waits(three: Cluster) -> None:
    """The counterpart of the fixture, in which a backlog brings them. Last, because one remains."""
    three.deploy(autoscaling_config=_scaling(three, downscale_delay_s=3))
    seconds = eventually(lambda: len(three.running()) == 1, "an idle service shrinks to one replica")
    print(f"one replica again after {seconds:.0f} s")
