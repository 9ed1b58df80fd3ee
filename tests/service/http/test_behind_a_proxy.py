"""What proxies, balancers and web pages need: a root path, forwarded headers, idle connections, CORS, addresses, the docs."""

import http.client
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from model import Reranker
from service.server import make_server
from service.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.servers import RunningService, fake_loader, running_service, settings_for_tests

_ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def behind_proxy(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(
        fake_loader(reranker), root_path="/ranker", api_key="secret", cors_origins=f"{_ORIGIN}, http://localhost:3000"
    ) as running:
        yield running


@pytest.mark.parametrize("prefix", ["", "/ranker"])
def test_requests_come_with_or_without_the_root_path(behind_proxy: RunningService, prefix: str) -> None:
    client, key = behind_proxy.client, {"Authorization": "Bearer secret"}
    assert client.get(f"{prefix}/livez").status_code == client.get(f"{prefix}/livez/").status_code == 200
    body = {"query": "a", "documents": ["one", "two"]}
    for path in ("/rerank", "/v1/rerank", "/rerank/"):
        answer = client.post(prefix + path, json=body, headers=key)
        assert (answer.status_code, len(answer.json()["results"])) == (200, 2)
    assert client.post(f"{prefix}/rerank", json=body).status_code == 401
    assert client.get(f"{prefix}/metrics").status_code == 401
    assert client.get(f"{prefix}/nothing", headers=key).status_code == 404


@pytest.mark.parametrize("path", ["/rankerlivez", "/ranker/ranker/livez", "/other/livez", "/ranker"])
def test_other_prefixes_are_no_routes(behind_proxy: RunningService, path: str) -> None:
    assert behind_proxy.client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 404


def test_the_root_path_twice_does_not_pass_the_key_check_and_the_limits_by(behind_proxy: RunningService) -> None:
    body = {"query": "a", "documents": ["one"]}
    answer = behind_proxy.client.post("/ranker/ranker/rerank", json=body, headers={"Authorization": "Bearer secret"})
    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
@pytest.mark.parametrize("prefix", ["", "/ranker"])
def test_the_docs_load_all_their_files_from_the_service(behind_proxy: RunningService, prefix: str, path: str) -> None:
    client, key = behind_proxy.client, {"Authorization": "Bearer secret"}
    page = client.get(prefix + path, headers=key)
    assert page.status_code == 200 and "http://" not in page.text and "https://" not in page.text
    links = [link for link in re.findall(r"""(?:src|href)="([^"]+)\"""", page.text) if link != "data:,"]
    assert sorted(links) == ["/ranker/docs/swagger-ui-bundle.js", "/ranker/docs/swagger-ui.css"]
    sizes = {link: len(client.get(link, headers=key).raise_for_status().content) for link in links}
    assert sizes["/ranker/docs/swagger-ui-bundle.js"] > 10**6 and sizes["/ranker/docs/swagger-ui.css"] > 10**5
    assert client.get(links[0], headers=key).headers["content-type"].startswith(("text/javascript", "text/css"))
    assert "'/ranker/openapi.json'" in page.text and '"validatorUrl": null' in page.text
    assert client.get("/ranker/openapi.json", headers=key).json()["servers"] == [{"url": "/ranker"}]


@pytest.mark.parametrize("origin", [_ORIGIN, "http://localhost:3000"])
def test_pages_of_the_origins_may_send_requests_and_a_preflight_needs_no_key(
    behind_proxy: RunningService, origin: str
) -> None:
    asks = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = behind_proxy.client.options("/rerank", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    refused = behind_proxy.client.post("/rerank", json={}, headers={"Origin": origin})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)
    assert "X-Request-Id" in refused.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in refused.headers


def test_the_headers_of_one_answer_are_not_those_of_the_next(behind_proxy: RunningService) -> None:
    key = {"Authorization": "Bearer secret"}
    first = behind_proxy.client.get("/docs", headers={**key, "Origin": _ORIGIN})
    assert first.headers["access-control-allow-origin"] == _ORIGIN
    second = behind_proxy.client.get("/docs", headers=key)
    assert not [name for name in second.headers if name.startswith("access-control-allow-origin")]


def test_pages_of_other_origins_may_not(behind_proxy: RunningService) -> None:
    asks = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    preflight = behind_proxy.client.options("/rerank", headers=asks)
    assert preflight.status_code == 400 and "access-control-allow-origin" not in preflight.headers


def test_by_default_no_origin_may_and_the_idle_connection_is_closed_after_its_time(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), keep_alive_seconds=1) as running:
        answer = running.client.get("/livez", headers={"Origin": _ORIGIN})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        connection = http.client.HTTPConnection("127.0.0.1", running.server.port, timeout=PATIENCE_SECONDS)
        connection.request("GET", "/livez")
        assert connection.getresponse().read()
        assert connection.sock.recv(1) == b""  # waits until the server closes it
        connection.close()


def test_the_table_for_proxies_has_these_settings_with_their_defaults() -> None:
    readme = Path(__file__).parents[3] / "deploy" / "README.md"
    section = readme.read_text().partition("## Behind a proxy of your own")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+)`? \|", section, re.MULTILINE))
    assert set(rows) == {"KEEP_ALIVE_SECONDS", "ROOT_PATH", "TRUSTED_PROXIES", "CORS_ORIGINS", "HOST"}
    for name, default in rows.items():
        field = Settings.model_fields[name.lower()].default
        assert default.strip() == (f"{field:g}" if isinstance(field, float) else field or "none")


def test_the_default_keep_alive_outlives_the_balancers() -> None:
    """60 s: idle timeout of an AWS application load balancer, and of connections from nginx to its upstreams."""
    assert Settings().keep_alive_seconds > 60


@pytest.mark.parametrize(
    ("trusted", "scheme", "client"),
    [
        ("127.0.0.1,::1", "https", "203.0.113.9"),
        ("127.0.0.0/8", "https", "203.0.113.9"),
        ("*", "https", "203.0.113.9"),
        ("10.0.0.0/8", "http", "127.0.0.1"),
        ("", "http", "127.0.0.1"),
    ],
)
def test_forwarded_headers_are_believed_from_trusted_proxies(trusted: str, scheme: str, client: str) -> None:
    async def echo(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http" and scope["client"] is not None
        body = json.dumps([scope["scheme"], scope["client"][0]]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    server = make_server(settings_for_tests(trusted_proxies=trusted))
    server.config.app, server.config.lifespan = echo, "off"
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert server.is_listening.wait(PATIENCE_SECONDS)
        sent = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
        assert httpx.get(f"http://127.0.0.1:{server.port}/", headers=sent).json() == [scheme, client]
    finally:
        server.stop(0)
        thread.join(PATIENCE_SECONDS)


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("host", "says", "reached"),
    [
        ("127.0.0.1", r"listening on http://127\.0\.0\.1:\d+$", ["127.0.0.1"]),
        ("0.0.0.0", r"listening on http://127\.0\.0\.1:\d+ \(all IPv4 addresses\)$", ["127.0.0.1"]),
        ("::1", r"listening on http://\[::1\]:\d+$", ["::1"]),
        ("::", r"listening on http://\[::1\]:\d+ \(all addresses\)$", ["::1", "127.0.0.1"]),
    ],
)
def test_the_log_says_where_the_service_listens(
    reranker: Reranker, caplog: pytest.LogCaptureFixture, host: str, says: str, reached: list[str]
) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("there is no IPv6 here")
    if host == "::" and not socket.has_dualstack_ipv6():
        reached = ["::1"]
    server = make_server(settings_for_tests(host=host), load=fake_loader(reranker))
    thread = threading.Thread(target=server.run, daemon=True)
    with caplog.at_level(logging.INFO, "service.server"):
        thread.start()
        assert server.is_listening.wait(PATIENCE_SECONDS)
    try:
        assert [line for line in caplog.messages if re.search(says, line)], caplog.messages
        for address in reached:
            connection = http.client.HTTPConnection(address, server.port, timeout=PATIENCE_SECONDS)
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200
            connection.close()
    finally:
        server.stop(0)
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_a_port_that_is_taken_ends_the_server(reranker: Reranker, caplog: pytest.LogCaptureFixture) -> None:
    if not _has_ipv6():
        pytest.skip("there is no IPv6 here")
    with socket.create_server(("::", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        server = make_server(settings_for_tests(host="::", port=port), load=fake_loader(reranker))
        server.run()
    assert server.exit_code == 1
    assert [line for line in caplog.messages if line.startswith(f"cannot listen on [::]:{port}: ")]
