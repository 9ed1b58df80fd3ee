"""The service and clients that offer an upgrade to h2c with each request."""

import base64
import json
import shutil
import socket
import subprocess
from http.client import HTTPResponse
from pathlib import Path

import pytest

from model import Reranker
from tests.documents import make_image
from tests.patience import PATIENCE_SECONDS
from tests.servers import fake_loader, running_service

_OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


def test_a_body_in_a_packet_of_its_own_is_the_body_of_its_request(reranker: Reranker) -> None:
    body = json.dumps({"query": "a", "documents": ["one", "two"]}).encode()
    head = f"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{_OFFER}\r\n"
    with (
        running_service(fake_loader(reranker)) as service,
        socket.create_connection(("127.0.0.1", service.server.port), timeout=PATIENCE_SECONDS) as connection,
    ):
        for _ in range(2):
            connection.sendall(head.encode())
            # An answer on another connection: the server has read the head by now.
            assert service.client.get("/livez").status_code == 200
            connection.sendall(body)
            answer = HTTPResponse(connection)
            answer.begin()
            assert (answer.status, len(json.load(answer)["results"])) == (200, 2)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536) == b"", "an answer that nothing asked for"


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no java")
def test_the_client_of_the_jdk_posts_bodies_of_any_size(reranker: Reranker, tmp_path: Path) -> None:
    image = base64.b64encode(make_image()).decode()
    files = []
    for size in (1_000, 100_000, 5_000_000):
        path = tmp_path / f"{size}.json"
        path.write_text(json.dumps({"query": "a", "documents": [{"image": image, "text": "a" * size}]}))
        files.append(str(path))
    with running_service(fake_loader(reranker)) as service:
        command = ["java", str(Path(__file__).with_name("PostBody.java")), f"{service.url}/rerank", *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    answers = done.stdout.splitlines()
    assert [answer[:4] for answer in answers] == ["200 "] * 3, (done.stdout, done.stderr)
