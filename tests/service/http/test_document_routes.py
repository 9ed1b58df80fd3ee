"""Registered documents as a client sees them: put, followed, named in a rerank request, replaced, deleted."""

import base64
import contextlib
import http.client
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from model import FakeRankingModel, PreparedPage, Reranker
from model.ranking_model import BetweenLayers
from service.http.document_schemas import RegisteredDocumentPages, RegisteredDocuments
from service.registered.store import DocumentKey
from tests.documents import make_encrypted_pdf, make_image, make_pdf, make_tiff, make_torn_pdf
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.http.requests import ERROR_BODY, refused, rerank

PDF = {"content-type": "application/pdf"}
THREE_PAGES, FIVE_PAGES = make_pdf(3, width=64, height=64), make_pdf(5, width=64, height=64)


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    limits: dict[str, Any] = {"max_body_bytes": 300_000, "max_file_bytes": 200_000, "max_document_pages": 6}
    with running_service(fake_loader(reranker), **limits) as running:
        yield running


def put(service: RunningService, id: str, data: bytes, **headers: str) -> httpx.Response:
    return service.client.put(f"/documents/{id}", content=data, headers={**PDF, **headers})


def register(service: RunningService, id: str, data: bytes, **headers: str) -> dict[str, Any]:
    """Put it and wait until it is processed."""
    answer = put(service, id, data, **headers)
    assert answer.status_code == 202, answer.text
    eventually(lambda: get(service, id, **headers)["state"] != "processing")
    return get(service, id, **headers)


def get(service: RunningService, id: str, **headers: str) -> dict[str, Any]:
    answer = service.client.get(f"/documents/{id}", headers=headers)
    assert answer.status_code == 200, answer.text
    RegisteredDocumentPages.model_validate(answer.json())
    return dict(answer.json())


def ranked_ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [result["id"] for result in answer.json()["results"]]


# Put, get, delete


def test_a_put_document_is_processed_and_then_ready(service: RunningService) -> None:
    answer = put(service, "annual-report", THREE_PAGES)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body["state"] == "processing" and body["page_count"] == 3 and body["bytes"] == len(THREE_PAGES)
    assert len(body["sha256"]) == 64 and body["created"] > 1_700_000_000
    assert body["pages"] == [{"id": f"annual-report#page={number}", "page": number} for number in (1, 2, 3)]
    eventually(lambda: get(service, "annual-report")["state"] == "ready")
    assert get(service, "annual-report") == {**body, "state": "ready"}


@pytest.mark.parametrize(
    ("data", "content_type", "pages"),
    [
        (make_image(), "image/png", [("doc", None)]),
        (make_image(format="JPEG"), "application/octet-stream", [("doc", None)]),
        (make_tiff([(40, 30), (30, 40)]), "image/tiff", [("doc#page=1", 1), ("doc#page=2", 2)]),
        (FIVE_PAGES, "application/octet-stream; charset=binary", [(f"doc#page={n}", n) for n in range(1, 6)]),
    ],
    ids=["png", "jpeg", "tiff", "pdf"],
)
def test_every_kind_of_document_can_be_put(
    service: RunningService, data: bytes, content_type: str, pages: list[tuple[str, int | None]]
) -> None:
    answer = service.client.put("/v1/documents/doc", content=data, headers={"content-type": content_type})
    assert answer.status_code == 202, answer.text
    assert [(page["id"], page["page"]) for page in answer.json()["pages"]] == pages
    eventually(lambda: service.client.get("/v1/documents/doc").json()["state"] == "ready")
    assert ranked_ids(rerank(service, [{"id": id} for id, _ in pages])) == [id for id, _ in pages]


def test_a_document_can_be_put_as_a_multipart_file(service: RunningService) -> None:
    answer = service.client.put("/documents/form", files={"file": ("any name.pdf", THREE_PAGES)})
    assert (answer.status_code, answer.json()["page_count"]) == (202, 3)


@pytest.mark.parametrize(
    "files",
    [
        [("file", ("a.pdf", THREE_PAGES)), ("file", ("b.pdf", THREE_PAGES))],
        [("document", ("a.pdf", THREE_PAGES))],
        [("note", (None, "no file"))],
    ],
    ids=["two", "another-name", "a-field"],
)
def test_a_form_with_anything_but_one_file_is_refused(service: RunningService, files: Any) -> None:
    refused(service.client.put("/documents/form", files=files), 400, "invalid_request", "file")


def at_path(service: RunningService, method: str, path: str, data: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """Status and body for a path exactly as given: httpx would resolve `..` before it sends."""
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, data, PDF if data else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")


@pytest.mark.parametrize("id", ["a", ".", "..", "%2e", "%2e%2e", "...", "A.b_C-1", "x" * 128])
def test_every_id_of_the_pattern_is_a_document_of_its_own(service: RunningService, id: str) -> None:
    path, plain = f"/documents/{id}", id.replace("%2e", ".")
    assert at_path(service, "PUT", path, THREE_PAGES)[0] == 202
    status, body = at_path(service, "GET", path)
    assert (status, body["id"]) == (200, plain)
    assert ranked_ids(rerank(service, [{"id": f"{plain}#page=2"}])) == [f"{plain}#page=2"]
    assert at_path(service, "DELETE", path) == (204, {})
    assert at_path(service, "GET", path)[1]["code"] == "document_not_found"


@pytest.mark.parametrize("id", ["x" * 129, "a%20b", "caf%C3%A9", "a:b", "a%23page=1", "%00", "a%5Cb"])
def test_an_id_outside_the_pattern_is_refused(service: RunningService, id: str) -> None:
    for method, data in (("PUT", THREE_PAGES), ("GET", None), ("DELETE", None)):
        status, body = at_path(service, method, f"/documents/{id}", data)
        assert (status, body["code"]) == (400, "invalid_request")
        assert "1 to 128" in body["message"]


def test_an_id_with_a_slash_is_no_route(service: RunningService) -> None:
    for path in ("/documents/a%2Fb", "/documents/%2e%2e/etc/passwd", "/documents/../etc/passwd"):
        status, body = at_path(service, "GET", path)
        assert (status, body["code"]) == (404, "not_found")


def test_a_deleted_document_is_gone(service: RunningService) -> None:
    register(service, "gone", THREE_PAGES)
    assert ranked_ids(rerank(service, [{"id": "gone#page=1"}])) == ["gone#page=1"]
    answer = service.client.delete("/documents/gone")
    assert (answer.status_code, answer.content) == (204, b"")
    refused(service.client.delete("/documents/gone"), 404, "document_not_found", "'gone'")
    refused(service.client.get("/documents/gone"), 404, "document_not_found", "'gone'")
    refused(rerank(service, [{"id": "gone#page=1"}]), 404, "document_not_found", "'gone'")


@pytest.mark.parametrize("store", ["a folder", "an object store"])
def test_a_document_that_another_replica_deletes_is_gone_at_once(
    reranker: Reranker, tmp_path: Path, store: str
) -> None:
    url = str(tmp_path) if store == "a folder" else f"memory://{tmp_path}"
    with (
        running_service(fake_loader(reranker), document_store=url) as one,
        running_service(fake_loader(reranker), document_store=url) as two,
    ):
        register(one, "report", THREE_PAGES)
        assert len(ranked_ids(rerank(two, [{"id": "report"}]))) == 3  # which two's caches hold from now on
        assert one.client.delete("/documents/report").status_code == 204
        refused(two.client.get("/documents/report"), 404, "document_not_found")
        assert two.client.get("/documents").json()["data"] == []
        for reference in ({"id": "report"}, "ziprerank://report", "ziprerank://report#page=2"):
            refused(rerank(two, [reference]), 404, "document_not_found")
        refused(two.client.delete("/documents/report"), 404, "document_not_found")
        register(one, "report", FIVE_PAGES)
        assert get(two, "report")["page_count"] == 5
        assert len(ranked_ids(rerank(two, [{"id": "report"}]))) == 5


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"just some text", 415, "unsupported_media_type"),
        (b"%PDF-1.7\nnothing that follows is a PDF", 422, "corrupt_document"),
        (make_encrypted_pdf(password="secret"), 422, "encrypted_document"),
        (make_image()[:20], 422, "corrupt_image"),
        (b"%PDF-" + b"x" * 200_000, 413, "file_too_large"),
        (b"%PDF-" + b"x" * 300_000, 413, "body_too_large"),
        (make_pdf(7, width=64, height=64), 413, "too_many_pages"),
        (b"", 400, "malformed_body"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_document_that_cannot_be_used_is_refused_and_the_old_one_stays(
    service: RunningService, data: bytes, status: int, code: str
) -> None:
    before = register(service, "kept", THREE_PAGES)
    body = refused(put(service, "kept", data), status, code)
    assert "documents[" not in body["message"] and body["document_index"] is None
    assert get(service, "kept") == before


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/pdf", "content-encoding": "br"},
    ],
    ids=repr,
)
def test_another_content_type_is_refused(service: RunningService, headers: dict[str, str]) -> None:
    answer = service.client.put("/documents/a", content=THREE_PAGES, headers=headers)
    refused(answer, 415, "unsupported_media_type")


def test_a_page_that_cannot_be_drawn_fails_the_document_and_not_its_other_pages(service: RunningService) -> None:
    found = register(service, "torn", make_torn_pdf())
    assert found["state"] == "failed"
    assert (found["error"]["code"], found["error"]["page"]) == ("bad_page_box", 2)
    assert found["error"]["message"].startswith("page 2: ")
    assert ranked_ids(rerank(service, [{"id": "torn", "pages": "1"}])) == ["torn#page=1"]
    body = refused(rerank(service, [{"id": "torn", "pages": "1"}, {"id": "torn"}]), 422, "bad_page_box")
    assert (body["document_index"], body["page"]) == (1, 2)


# Lists


def test_documents_are_listed_by_id_and_page_by_page(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker)) as service:
        assert service.client.get("/documents").json() == {"object": "list", "data": [], "next": None}
        for id in ("b", "c", "B", "a"):
            register(service, id, THREE_PAGES)
        first = service.client.get("/v1/documents", params={"limit": 3}).json()
        RegisteredDocuments.model_validate(first)
        assert [document["id"] for document in first["data"]] == ["B", "a", "b"]
        assert all(document["state"] == "ready" and "pages" not in document for document in first["data"])
        rest = service.client.get("/documents", params={"limit": 3, "after": first["next"]}).json()
        assert ([document["id"] for document in rest["data"]], rest["next"]) == (["c"], None)


@pytest.mark.parametrize("limit", ["0", "1001", "many", ""])
def test_a_list_of_another_length_is_refused(service: RunningService, limit: str) -> None:
    refused(service.client.get("/documents", params={"limit": limit}), 400, "invalid_request", "limit")


# Rerank by reference


def test_references_and_uploads_are_ranked_together(service: RunningService) -> None:
    register(service, "report", FIVE_PAGES)
    picture = {"image": base64.b64encode(make_image()).decode()}
    answer = rerank(service, [{"id": "report#page=4"}, picture, {"id": "report", "pages": "5,1-2"}])
    assert answer.status_code == 200, answer.text
    assert [(result["index"], result["id"], result["page"]) for result in answer.json()["results"]] == [
        (0, "report#page=4", 4),
        (1, "document-1", None),
        (2, "report#page=5", 5),
        (2, "report#page=1", 1),
        (2, "report#page=2", 2),
    ]


def test_a_registered_document_is_ranked_like_the_same_document_sent(service: RunningService) -> None:
    put_document = register(service, "same", THREE_PAGES)
    by_reference = rerank(service, [{"id": "same"}], return_documents=True).json()
    files = [("file", ("same", THREE_PAGES, "application/pdf"))]
    form = {"query": "locks", "return_documents": "true"}
    sent = service.client.post("/rerank", data=form, files=files).json()
    assert by_reference["results"] == sent["results"]
    assert {result["sha256"] for result in sent["results"]} == {put_document["sha256"]}


def test_a_ready_document_needs_no_rendering(service: RunningService) -> None:
    def rendered() -> float:
        return service.metric("ziprerank_raster_page_duration_seconds_count", stage="render")

    pdf = make_pdf(4, width=70, height=64)
    before = rendered()
    register(service, "warm", pdf)
    assert rendered() == before + 4
    assert len(ranked_ids(rerank(service, [{"id": "warm"}]))) == 4
    assert rendered() == before + 4


@pytest.mark.parametrize(
    ("document", "status", "code", "mention"),
    [
        ({"id": "nobody"}, 404, "document_not_found", "'nobody'"),
        ({"id": "nobody#page=1"}, 404, "document_not_found", "'nobody'"),
        ({"id": "short#page=4"}, 400, "page_out_of_range", "page 4"),
        ({"id": "short", "pages": "9"}, 400, "page_out_of_range", "page 9"),
        ({"id": "short#page=0"}, 400, "page_out_of_range", "0 is not a page"),
        ({"id": "short#page=1", "pages": "2"}, 400, "invalid_request", "pages"),
        ({"id": "short", "pages": "x"}, 400, "invalid_request", "pages"),
        ({"id": "short#page=x"}, 400, "invalid_request", "report#page=3"),
        ({"id": "short#page=1#page=2"}, 400, "invalid_request", "report#page=3"),
        ({"id": "../short"}, 400, "invalid_request", "report#page=3"),
        ({"id": "x" * 129}, 400, "invalid_request", "report#page=3"),
        ({"id": ""}, 400, "invalid_request", "id of a registered document"),
        ({"pages": "1"}, 400, "invalid_request", "id of a registered document"),
        ("ziprerank://../short", 400, "invalid_request", "report#page=3"),
        ("ziprerank://missing", 404, "document_not_found", "missing"),
    ],
    ids=repr,
)
def test_a_reference_that_leads_nowhere(
    service: RunningService, document: Any, status: int, code: str, mention: str
) -> None:
    register(service, "short", THREE_PAGES)
    body = refused(rerank(service, [{"id": "short"}, document]), status, code, mention)
    if status == 404 or code == "page_out_of_range":
        assert body["document_index"] == 1


def test_a_replaced_document_gives_its_new_pages(service: RunningService) -> None:
    old = register(service, "changing", THREE_PAGES)
    assert len(ranked_ids(rerank(service, [{"id": "changing"}]))) == 3
    new = register(service, "changing", FIVE_PAGES)
    answer = rerank(service, [{"id": "changing"}], return_documents=True)
    assert sorted(ranked_ids(answer)) == [f"changing#page={number}" for number in range(1, 6)]
    shown = {result["sha256"] for result in answer.json()["results"]}
    assert shown == {new["sha256"]} != {old["sha256"]}


def test_a_document_that_is_replaced_all_the_time_is_always_ranked_whole(service: RunningService) -> None:
    stop = threading.Event()
    versions = [make_pdf(pages, width=60, height=64) for pages in (2, 4)]

    def keep_replacing() -> None:
        with httpx.Client(base_url=service.url, timeout=PATIENCE_SECONDS) as client:
            while not stop.is_set():
                for version in versions:
                    client.put("/documents/restless", content=version, headers=PDF)

    register(service, "restless", versions[0])
    writer = threading.Thread(target=keep_replacing)
    writer.start()
    try:
        for _ in range(20):
            assert len(ranked_ids(rerank(service, [{"id": "restless"}]))) in (2, 4)
    finally:
        stop.set()
        writer.join(PATIENCE_SECONDS)


class GatedEncoding(FakeRankingModel):
    """A model that encodes nothing in the background before the test opens the gate."""

    gate = threading.Event()

    def encode(self, pages: Sequence[PreparedPage], *, between_layers: BetweenLayers | None = None) -> int:
        assert self.gate.wait(PATIENCE_SECONDS)
        return len(pages)


def test_a_document_in_processing_can_be_ranked_once_its_pages_are_there(reranker: Reranker) -> None:
    GatedEncoding.gate.clear()
    gated = GatedEncoding(model=reranker)
    with running_service(lambda settings: gated) as service:
        put(service, "early", THREE_PAGES)
        eventually(lambda: service.metric("ziprerank_documents_waiting") == 0)
        answers: list[httpx.Response] = []
        asker = threading.Thread(target=lambda: answers.append(rerank(service, [{"id": "early#page=2"}])))
        asker.start()
        assert get(service, "early")["state"] == "processing"
        GatedEncoding.gate.set()
        asker.join(PATIENCE_SECONDS)
        assert ranked_ids(answers[0]) == ["early#page=2"]
        eventually(lambda: get(service, "early")["state"] == "ready")


def test_too_many_documents_in_processing_are_refused_and_leave_nothing(reranker: Reranker) -> None:
    GatedEncoding.gate.clear()
    gated = GatedEncoding(model=reranker)
    with running_service(lambda settings: gated, max_waiting_documents=1) as service:
        put(service, "processed", THREE_PAGES)
        eventually(lambda: service.metric("ziprerank_documents_waiting") == 0)
        put(service, "waits", THREE_PAGES)
        refusal = put(service, "refused", THREE_PAGES)
        refused(refusal, 429, "overloaded", "1 documents are waiting")
        assert refusal.headers["retry-after"]
        refused(service.client.get("/documents/refused"), 404, "document_not_found")
        GatedEncoding.gate.set()
        eventually(lambda: get(service, "waits")["state"] == "ready")
        assert service.metric("ziprerank_documents_processed_total", state="ready") == 2


# Callers


MINE, YOURS = {"authorization": "Bearer mine"}, {"authorization": "Bearer yours"}


def test_with_a_scope_per_key_a_document_is_its_owners_alone(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), cache_scope="per_key") as service:
        register(service, "secret", THREE_PAGES, **MINE)
        for stranger in (YOURS, {}):
            refused(service.client.get("/documents/secret", headers=stranger), 404, "document_not_found")
            refused(service.client.delete("/documents/secret", headers=stranger), 404, "document_not_found")
            refused(rerank(service, [{"id": "secret"}], headers=stranger), 404, "document_not_found")
            assert service.client.get("/documents", headers=stranger).json()["data"] == []
        register(service, "secret", FIVE_PAGES, **YOURS)
        register(service, "secret", make_pdf(1))
        counts = [len(ranked_ids(rerank(service, [{"id": "secret"}], headers=caller))) for caller in (MINE, YOURS, {})]
        assert counts == [3, 5, 1]


def test_with_a_scope_per_key_nothing_cached_is_shared(reranker: Reranker) -> None:
    def rendered(service: RunningService) -> float:
        return service.metric("ziprerank_raster_page_duration_seconds_count", stage="render")

    with running_service(fake_loader(reranker), cache_scope="per_key") as service:
        for caller, pages in ((MINE, 3), (MINE, 3), (YOURS, 6), ({}, 9), ({}, 9)):
            register(service, "report", THREE_PAGES, **caller)
            assert rendered(service) == pages


def test_without_it_all_callers_share_documents(service: RunningService) -> None:
    register(service, "shared", THREE_PAGES, **MINE)
    assert len(ranked_ids(rerank(service, [{"id": "shared"}], headers=YOURS))) == 3


def test_a_key_guards_documents_and_a_refusing_service_takes_none(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), wait=False, api_key="right") as service:
        for answer in (put(service, "a", THREE_PAGES), service.client.get("/documents")):
            refused(answer, 401, "unauthorized")
        key = {"authorization": "Bearer right"}
        eventually(lambda: service.client.get("/readyz").status_code == 200)
        assert put(service, "a", THREE_PAGES, **key).status_code == 202
        service.lifecycle.refuse()
        refused(put(service, "a", THREE_PAGES, **key), 503, "draining")


# Operation


def is_switched_off(logger: str) -> bool:
    """Whether nothing hears it but pytest, whose own handler makes uvicorn write access lines on new connections."""
    return not logging.getLogger(logger).propagate


def test_documents_are_counted_and_logged_by_route_and_never_by_id(
    service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="service.http.exchange"), caplog.at_level("INFO", logger="uvicorn.access"):
        register(service, "confidential-name", THREE_PAGES)
        service.client.delete("/v1/documents/confidential-name")
        service.client.get("/documents")
        service.client.get("/livez")  # its answer comes after the line of the request before
    text = service.client.get("/metrics").text
    lines = "\n".join(record.getMessage() for record in caplog.records if not is_switched_off(record.name))
    assert "confidential" not in text and "confidential" not in lines
    assert service.metric("ziprerank_requests_total", route="/documents/{id}", code="202") > 0
    assert service.metric("ziprerank_requests_total", route="/v1/documents/{id}", code="204") > 0
    assert service.metric("ziprerank_requests_total", route="/documents", code="200") > 0
    assert "path=/v1/documents/{id} status=204" in lines


def test_the_api_description_has_the_documents(service: RunningService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    assert set(paths["/documents/{id}"]) == set(paths["/v1/documents/{id}"]) == {"put", "get", "delete"}
    forms = paths["/documents/{id}"]["put"]["requestBody"]["content"]
    assert set(forms) == {"application/pdf", "image/*", "application/octet-stream", "multipart/form-data"}
    names = {parameter["name"] for parameter in paths["/documents"]["get"]["parameters"]}
    assert names == {"limit", "after", "X-Request-Id"}


def test_a_damaged_document_is_a_500_of_its_own_and_skipped_in_lists(reranker: Reranker, tmp_path: Path) -> None:
    with running_service(fake_loader(reranker), document_store=str(tmp_path)) as service:
        register(service, "whole", THREE_PAGES)
        register(service, "broken", THREE_PAGES)
        (tmp_path / DocumentKey(tenant=b"", id="broken").folder / "manifest.json").write_bytes(b"{")
        refused(service.client.get("/documents/broken"), 500, "document_damaged", "'broken'")
        refused(rerank(service, [{"id": "broken"}]), 500, "document_damaged")
        assert [document["id"] for document in service.client.get("/documents").json()["data"]] == ["whole"]
        register(service, "broken", FIVE_PAGES)
        assert len(ranked_ids(rerank(service, [{"id": "broken"}]))) == 5


# The path form


def rank(service: RunningService, id: str, **body: Any) -> httpx.Response:
    return service.client.post(f"/v1/documents/{id}/rerank", json={"query": "locks", **body})


def test_the_path_form_ranks_the_registered_document(service: RunningService) -> None:
    register(service, "report", FIVE_PAGES)
    everything = ranked_ids(rank(service, "report"))
    assert everything == [f"report#page={number}" for number in range(1, 6)]
    assert ranked_ids(rank(service, "report", documents=None)) == everything
    assert ranked_ids(rank(service, "report", pages="2-3", top_n=1)) == ["report#page=2"]
    form = service.client.post("/documents/report/rerank", files={"query": (None, "locks"), "pages": (None, "4")})
    assert ranked_ids(form) == ["report#page=4"]


def test_documents_in_the_body_are_ranked_whatever_the_path_says(service: RunningService) -> None:
    register(service, "report", FIVE_PAGES)
    picture = {"image": base64.b64encode(make_image(64, 64)).decode(), "id": "photo"}
    answer = rank(service, "a collection", documents=[{"id": "report", "pages": "5"}, picture])
    assert ranked_ids(answer) == ["report#page=5", "photo"]
    upload = [("file", ("scan.png", make_image(64, 64), "image/png"))]
    form = service.client.post("/documents/report/rerank", data={"query": "locks"}, files=upload)
    assert ranked_ids(form) == ["scan.png"]


def test_the_path_form_counts_as_a_route_of_its_own(service: RunningService) -> None:
    register(service, "report", FIVE_PAGES)
    labels = {"route": "/v1/documents/{id}/rerank", "code": "200"}
    before = service.metric("ziprerank_requests_total", **labels)
    assert rank(service, "report").status_code == 200
    assert service.metric("ziprerank_requests_total", **labels) == before + 1


@pytest.mark.parametrize(
    ("id", "body", "status", "param"),
    [
        ("nowhere", {}, 404, "id"),
        ("two words", {}, 400, "id"),
        ("report", {"documents": []}, 400, "documents"),
        ("report", {"pages": "9"}, 400, "pages"),
        ("report", {"pages": "1", "documents": [{"id": "report"}]}, 400, None),
    ],
)
def test_the_path_form_says_what_is_wrong(
    service: RunningService, id: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    register(service, "report", FIVE_PAGES)
    refusal = rank(service, id, **body)
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (status, param), refusal.text
    ERROR_BODY.validate_python(refusal.json())


@pytest.mark.parametrize(("field", "count"), [("id", 1), ("pages", 2)])
def test_a_form_without_files_takes_no_ids_and_one_page_selection(
    service: RunningService, field: str, count: int
) -> None:
    parts: list[tuple[str, tuple[None, str]]] = [("query", (None, "locks")), *[(field, (None, "1"))] * count]
    refusal = service.client.post("/documents/report/rerank", files=parts)
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, field)


def test_pages_are_ranked_by_strings_as_clients_that_know_no_objects_send_them(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker)) as service:
        put = service.client.put("/documents/report", content=make_pdf(3), headers={"content-type": "application/pdf"})
        assert put.status_code == 202
        image = f"data:image/png;base64,{base64.b64encode(make_image()).decode()}"
        body = {
            "model": "any",
            "query": "locks",
            "documents": ["ziprerank://report#page=3", "ziprerank://report", image],
        }
        answer = service.client.post("/v2/rerank", json={**body, "top_n": 5})
        assert answer.status_code == 200, answer.text
        assert [(result["index"], result["id"], result["page"]) for result in answer.json()["results"]] == [
            (0, "report#page=3", 3),
            (1, "report#page=1", 1),
            (2, "document-2", None),
        ]
        unknown = service.client.post("/v2/rerank", json={**body, "documents": [image, "ziprerank://missing"]})
        assert (unknown.status_code, unknown.json()["code"], unknown.json()["document_index"]) == (
            404,
            "document_not_found",
            1,
        )
