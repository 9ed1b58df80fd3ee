"""For the tests of all packages: the service at ZIPRERANK_URL, which has the demo checkpoint, with a registered PDF."""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

PDF = Path(__file__).parents[1] / "service" / "demo" / "town-guide.pdf"
DOCUMENT = "integration-guide"
QUERY = "bank loan interest"
RIGHT_PAGE = 5  # of the PDF: it alone has all words of the query
TEXTS = (
    "The kitchen of the old hotel is famous for fish soup.",
    "A train leaves the station every hour.",
    "The bank gives a loan to any small business, with low interest.",
)
_PATIENCE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service with a registered document, and one of its pages as an image."""

    url: str
    key: str
    document: str
    query: str
    texts: tuple[str, ...]
    right_page: int
    image: bytes  # JPEG of the right page


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    url, key = os.environ["ZIPRERANK_URL"], os.environ["ZIPRERANK_KEY"]
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=_PATIENCE_SECONDS) as client:
        pdf = {"Content-Type": "application/pdf"}
        client.put(f"/documents/{DOCUMENT}", content=PDF.read_bytes(), headers=pdf).raise_for_status()
        until = time.monotonic() + _PATIENCE_SECONDS
        while client.get(f"/documents/{DOCUMENT}").json()["state"] != "ready":
            assert time.monotonic() < until, "the PDF is not processed"
            time.sleep(0.1)
        image = client.get(f"/documents/{DOCUMENT}/pages/{RIGHT_PAGE}/image?width=800").raise_for_status().content
        yield Service(url=url, key=key, document=DOCUMENT, query=QUERY, texts=TEXTS, right_page=RIGHT_PAGE, image=image)
        client.delete(f"/documents/{DOCUMENT}")


@dataclass(frozen=True, kw_only=True)
class Relay:
    """A server between a client and the service, which keeps what it is sent."""

    url: str
    requests: list[tuple[dict[str, str], dict[str, Any]]]  # headers by lower-case name; body


@pytest.fixture
def relay(service: Service) -> Iterator[Relay]:
    """Forwards each request to the service; the first one is answered with 503 where the query says `busy`."""
    requests: list[tuple[dict[str, str], dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent = {name.lower(): value for name, value in self.headers.items()}
            requests.append((sent, json.loads(body)))
            if b"busy" in body and len(requests) == 1:
                self._answer(503, b'{"message": "The queue is full."}', {"Retry-After": "0"})
                return
            kept = {
                name: value for name, value in sent.items() if name not in ("host", "content-length", "accept-encoding")
            }
            answer = httpx.post(f"{service.url}{self.path}", content=body, headers=kept, timeout=_PATIENCE_SECONDS)
            self._answer(answer.status_code, answer.content, {})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Relay(url=f"http://127.0.0.1:{server.server_port}", requests=requests)
    server.shutdown()
    server.server_close()
