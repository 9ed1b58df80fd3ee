"""deploy/proxies: two replicas under /ranker behind a real nginx with nginx.conf; the other files against the settings."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.settings import Settings
from tests.deploy.fleet import SERVED_BY
from tests.deploy.kubernetes_objects import VERSIONS, faults_by_kubernetes
from tests.deploy.processes import answers, replica, request_of_one_page, tool_process
from tests.deploy.tools import DEPLOY, run
from tests.patience import PATIENCE_SECONDS, eventually
from tests.processes import free_port

PROXIES = DEPLOY / "proxies"
NGINX = PROXIES / "nginx.conf"
TRAEFIK = PROXIES / "traefik.yml"
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client whose requests go to nginx; both replicas are ready."""
    folder = tmp_path_factory.mktemp("nginx")
    ports, front = [free_port(), free_port()], free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(on_this_machine(ports, front, folder))
    with ExitStack() as closing:
        for port in ports:
            closing.enter_context(replica(port, folder / "documents", "--root-path", "/ranker"))
        for port in ports:
            eventually(partial(answers, f"http://127.0.0.1:{port}/readyz"))
        arguments = ("-p", folder, "-c", configuration, "-e", "stderr", "-g", globals_of(folder))
        closing.enter_context(tool_process("nginx", *arguments, log=folder / "nginx.log"))
        eventually(lambda: answers(f"http://127.0.0.1:{front}/ranker/readyz"))
        address = f"http://127.0.0.1:{front}"
        yield closing.enter_context(httpx.Client(base_url=address, timeout=PATIENCE_SECONDS))


def on_this_machine(ports: list[int], front: int, folder: Path) -> str:
    """The project's configuration with this machine's ports, and folders that any user may write."""
    text = NGINX.read_text().replace("listen 8080", f"listen 127.0.0.1:{front}")
    for number, port in enumerate(ports, start=1):
        text = text.replace(f"127.0.0.1:{8000 + number}", f"127.0.0.1:{port}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "\n".join(f"    {kind}_temp_path {folder / kind};" for kind in kinds)
    text = text.replace("location /ranker/ {", f"location /ranker/ {{ add_header {SERVED_BY} $upstream_addr;")
    return text.replace("http {\n", f"http {{\n{own}\n", 1).replace("/dev/stdout", str(folder / "requests.log"))


def globals_of(folder: Path) -> str:
    """One process, so that its end leaves none behind."""
    user = "user root; " if os.geteuid() == 0 else ""
    return f"daemon off; master_process off; pid {folder / 'nginx.pid'}; {user}"


def served_by(nginx: httpx.Client, key: str | None = None) -> str:
    """The address of the replica that nginx chose."""
    headers = {} if key is None else {"X-ZipRerank-Affinity": key}
    return nginx.get("/ranker/readyz", headers=headers).raise_for_status().headers[SERVED_BY]


def test_requests_under_the_root_path_are_ranked(nginx: httpx.Client) -> None:
    answer = nginx.post("/ranker/v1/rerank", json=request_of_one_page(1))
    assert answer.status_code == 200 and len(answer.json()["results"]) == 1, answer.text


def test_requests_with_a_key_meet_one_replica_and_others_both(nginx: httpx.Client) -> None:
    served = [{served_by(nginx, f"report-{number}") for _ in range(3)} for number in range(64)]
    assert all(len(replicas) == 1 for replicas in served)
    assert len(set.union(*served)) == 2
    assert len({served_by(nginx) for _ in range(64)}) == 2


def test_the_docs_and_their_files_come_through_nginx(nginx: httpx.Client) -> None:
    page = nginx.get("/ranker/docs").raise_for_status().text
    files = [link for link in re.findall(r"""(?:src|href)="(/[^"]+)\"""", page)]
    assert len(files) == 2
    for file in files:
        assert len(nginx.get(file).raise_for_status().content) > 10**5
    assert nginx.get("/ranker/openapi.json").json()["servers"] == [{"url": "/ranker"}]


@pytest.mark.parametrize(
    "path", ["/ranker/metrics", "/ranker/metrics/", "/ranker/%6Detrics", "/ranker//metrics", "/metrics", "/readyz", "/"]
)
def test_neither_metrics_nor_other_paths_reach_a_replica(nginx: httpx.Client, path: str) -> None:
    answer = nginx.get(path)
    assert answer.status_code == 404 and SERVED_BY not in answer.headers and "nginx" in answer.text


def test_a_body_of_many_megabytes_comes_through(nginx: httpx.Client) -> None:
    body = request_of_one_page(1) | {"padding": "x" * (10 * MEBIBYTE)}
    assert nginx.post("/ranker/rerank", json=body).status_code != 413


def test_nginx_takes_bodies_as_large_as_the_service_does(nginx: httpx.Client) -> None:
    [size] = re.findall(r"client_max_body_size (\d+)m;", NGINX.read_text())
    assert int(size) * MEBIBYTE == Settings().max_body_bytes
    answer = nginx.post("/ranker/rerank", content=b"x" * (int(size) * MEBIBYTE + 1))
    assert answer.status_code == 413 and "nginx" in answer.text


def test_nginx_waits_longer_than_the_service_and_hangs_up_sooner() -> None:
    text, settings = NGINX.read_text(), Settings()
    [read], [idle] = (re.findall(rf"\b{name} (\d+)s;", text) for name in ("proxy_read_timeout", "keepalive_timeout"))
    assert float(read) > settings.body_seconds and float(idle) < settings.keep_alive_seconds


def test_traefik_waits_longer_than_the_service_and_hangs_up_sooner() -> None:
    http, settings = yaml.safe_load(TRAEFIK.read_text())["http"], Settings()
    [times] = [transport["forwardingTimeouts"] for transport in http["serversTransports"].values()]
    assert float(times["responseHeaderTimeout"].removesuffix("s")) > settings.body_seconds
    assert float(times["idleConnTimeout"].removesuffix("s")) < settings.keep_alive_seconds


def test_traefiks_router_and_service_name_what_is_there() -> None:
    http = yaml.safe_load(TRAEFIK.read_text())["http"]
    assert {router["service"] for router in http["routers"].values()} == set(http["services"])
    balancers = [service["loadBalancer"] for service in http["services"].values()]
    assert {balancer["serversTransport"] for balancer in balancers} == set(http["serversTransports"])
    assert {balancer["healthCheck"]["path"] for balancer in balancers} == {"/readyz"}


def ingress_objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((PROXIES / "ingress.yaml").read_text()))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_ingress_is_valid(version: str) -> None:
    assert faults_by_kubernetes(ingress_objects(), version) == []


def test_kubectl_reads_the_ingress_beside_an_overlay(tmp_path: Path) -> None:
    folder = os.path.relpath(DEPLOY / "kubernetes" / "base", tmp_path)
    (tmp_path / "ingress.yaml").write_text((PROXIES / "ingress.yaml").read_text())
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{folder}, ingress.yaml]\n")
    built = list(yaml.safe_load_all(run("kubectl", "kustomize", tmp_path)))
    assert [found for found in built if found["kind"] == "Ingress"] == ingress_objects()[:1]
