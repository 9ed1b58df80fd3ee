"""Registered documents under kills and shared between processes, with the service as an operator runs it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.documents import make_tiff
from tests.patience import PATIENCE_SECONDS, eventually, wait_until_ready
from tests.processes import listening_url, process

OLD, NEW = make_tiff([(64, 64)] * 2), make_tiff([(64, 96)] * 3)
TIFF = {"content-type": "image/tiff"}


@contextmanager
def service_on(store: Path) -> Iterator[tuple[httpx.Client, Any]]:
    """A service process that is ready, and a client of it."""
    flags = ("--model", "demo", "--port", "0", "--device", "cpu", "--drain-delay-seconds", "0")
    with (
        process(*flags, ZIPRERANK_DOCUMENT_STORE=str(store)) as running,
        httpx.Client(base_url=listening_url(running), timeout=PATIENCE_SECONDS) as client,
    ):
        wait_until_ready(client)
        yield client, running


def put(client: httpx.Client, data: bytes, id: str = "report") -> httpx.Response:
    return client.put(f"/documents/{id}", content=data, headers=TIFF)


def ranked_pages(client: httpx.Client, id: str = "report") -> list[int]:
    answer = client.post("/rerank", json={"query": "locks", "documents": [{"id": id}]})
    assert answer.status_code == 200, answer.text
    return sorted(result["page"] for result in answer.json()["results"])


def become_ready(client: httpx.Client, id: str = "report") -> None:
    eventually(lambda: client.get(f"/documents/{id}").json()["state"] == "ready")


def begin_put(client: httpx.Client, data: bytes) -> socket.socket:
    """The head and the first half of the body of a PUT."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    head = (
        f"PUT /documents/report HTTP/1.1\r\nHost: a\r\nContent-Type: image/tiff\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data[: len(data) // 2])
    return connection


def test_a_kill_while_a_body_is_half_sent_keeps_the_old_version(tmp_path: Path) -> None:
    with service_on(tmp_path) as (client, running):
        put(client, OLD)
        become_ready(client)
        before = client.get("/documents/report").json()
        with begin_put(client, NEW):
            eventually(lambda: "ziprerank_requests_in_flight 1.0" in client.get("/metrics").text)
            running.kill()
            running.wait(PATIENCE_SECONDS)
    with service_on(tmp_path) as (client, _):
        assert client.get("/documents/report").json() == before
        assert ranked_pages(client) == [1, 2]


def test_a_kill_among_many_puts_leaves_a_whole_version_that_is_served_and_finished(tmp_path: Path) -> None:
    with service_on(tmp_path) as (client, running):
        put(client, OLD)
        has_put = threading.Semaphore(0)

        def replace_for_ever() -> None:
            try:
                with httpx.Client(base_url=client.base_url, timeout=PATIENCE_SECONDS) as writer:
                    while True:
                        for version in (NEW, OLD):
                            put(writer, version)
                            has_put.release()
            except httpx.TransportError:
                pass  # the kill

        writer_thread = threading.Thread(target=replace_for_ever)
        writer_thread.start()
        for _ in range(5):
            assert has_put.acquire(timeout=PATIENCE_SECONDS)
        running.kill()
        running.wait(PATIENCE_SECONDS)
        writer_thread.join(PATIENCE_SECONDS)
    with service_on(tmp_path) as (client, _):
        [listed] = client.get("/documents").json()["data"]
        assert listed["bytes"] in (len(OLD), len(NEW))
        pages = {len(OLD): [1, 2], len(NEW): [1, 2, 3]}[listed["bytes"]]
        assert ranked_pages(client) == pages
        become_ready(client)  # what was in processing when the kill came is taken up


def test_two_processes_on_one_store_see_each_others_documents_at_once(tmp_path: Path) -> None:
    with service_on(tmp_path) as (one, _), service_on(tmp_path) as (two, _):
        assert put(one, OLD).status_code == 202
        assert two.get("/documents/report").json()["page_count"] == 2
        assert ranked_pages(two) == ranked_pages(one) == [1, 2]
        assert put(two, NEW).status_code == 202
        assert one.get("/documents/report").json()["sha256"] == two.get("/documents/report").json()["sha256"]
        assert ranked_pages(one) == [1, 2, 3]
        become_ready(one)
        put(one, OLD, "another")
        assert [document["id"] for document in two.get("/documents").json()["data"]] == ["another", "report"]
        assert two.delete("/documents/report").status_code == 204
        assert one.get("/documents/report").status_code == 404
        refusal = one.post("/rerank", json={"query": "locks", "documents": [{"id": "report"}]})
        assert (refusal.status_code, refusal.json()["code"]) == (404, "document_not_found")
