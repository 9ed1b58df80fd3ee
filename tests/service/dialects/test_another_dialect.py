"""A wire format of its own in one file: the service serves it like its own one, without a line changed elsewhere."""

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model import Reranker
from service.dialects.body import RequestBody
from service.dialects.dialect import DialectRoute, RequestHead
from service.errors import InvalidRequestError, ServiceError
from service.records import RerankAnswer, RerankQuery, Upload
from tests.documents import make_pdf
from tests.patience import eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.spans import read_spans


@dataclass(frozen=True)
class Librarian:
    """`{"find": "…", "in": [base64]}` to `{"shelf": ["0/2", "0/1"]}`; errors as `{"sorry": "…"}`."""

    name: str = "librarian"
    media_types: Sequence[str] = ("application/json",)
    routes: Sequence[DialectRoute] = (DialectRoute(path="/find", name="find", description="Find pages."),)

    def recognises(self, fields: Mapping[str, Any]) -> bool:
        return "find" in fields

    def read(self, body: RequestBody, head: RequestHead) -> RerankQuery:
        try:
            wanted = body.fields
            found, given = str(wanted["find"]), list(wanted["in"])
        except (TypeError, KeyError):
            raise InvalidRequestError("invalid_request", "send find and in", param="body") from None
        documents = tuple(
            Upload(name=f"in[{index}]", content=content, kind=None, pages=None, label=str(index))
            for index, content in enumerate(given)
        )
        return RerankQuery(text=found, documents=documents)

    def write(self, query: RerankQuery, answer: RerankAnswer) -> Any:
        return {"shelf": [f"{page.document_index}/{page.number}" for page in answer.pages]}

    def error(self, error: ServiceError, *, request_id: str, query: RerankQuery | None) -> Any:
        return {"sorry": f"{error.code} in {error.field or 'the request'} of book {error.document_index}"}


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracing") / "spans.jsonl"


@pytest.fixture(scope="module")
def service(reranker: Reranker, spans: Path) -> Iterator[RunningService]:
    settings: dict[str, Any] = {"api_key": "secret", "max_body_bytes": 100_000, "tracing": f"file:{spans}"}
    with running_service(fake_loader(reranker), dialects=[Librarian()], **settings) as running:
        running.client.headers["Authorization"] = "Bearer secret"
        yield running


def find(service: RunningService, **changes: Any) -> Any:
    document = base64.b64encode(make_pdf(2)).decode()
    return service.client.post("/find", json={"find": "locks", "in": [document, document], **changes})


def test_its_answers_have_its_shape(service: RunningService) -> None:
    response = find(service)
    assert (response.status_code, response.json()) == (200, {"shelf": ["0/1", "0/2", "1/1", "1/2"]})
    assert response.headers["x-request-id"] and response.headers["x-ziprerank-replica"]


@pytest.mark.parametrize(
    ("changes", "status", "sorry"),
    [
        ({"in": 7}, 400, "invalid_request in the request of book None"),
        ({"find": " "}, 400, "invalid_request in query of book None"),
        ({"in": ["!!"]}, 422, "invalid_base64 in content of book 0"),
        ({"find": "x" * 100_000}, 413, "body_too_large in the request of book None"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_its_errors_have_its_shape(service: RunningService, changes: Any, status: int, sorry: str) -> None:
    response = find(service, **changes)
    assert (response.status_code, response.json()) == (status, {"sorry": sorry})


def test_it_is_admitted_like_every_other(service: RunningService) -> None:
    refused = service.client.post("/find", json={}, headers={"Authorization": "Bearer wrong"})
    assert (refused.status_code, refused.json()["sorry"]) == (401, "unauthorized in the request of book None")
    assert refused.headers["www-authenticate"] == "Bearer"
    wrong_type = service.client.post("/find", content=b"x", headers={"content-type": "text/plain"})
    assert (wrong_type.status_code, wrong_type.json()["sorry"].partition(" ")[0]) == (415, "unsupported_media_type")


def test_it_is_counted_logged_and_traced_under_its_name(
    service: RunningService, spans: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counted = {"route": "/find", "dialect": "librarian", "code": "200"}
    before = service.metric("ziprerank_requests_total", **counted)
    with caplog.at_level(logging.INFO):
        find(service)
        eventually(lambda: any("path=/find status=200" in line for line in caplog.messages))
    assert service.metric("ziprerank_requests_total", **counted) == before + 1
    [line] = [line for line in caplog.messages if "path=/find status=200" in line]
    assert "dialect=librarian" in line and "pages=4" in line
    eventually(lambda: names_of(spans) >= {"rerank librarian", "POST /find"})


def names_of(spans: Path) -> set[str]:
    return {span.name for span in read_spans(spans)} if spans.exists() else set()


def test_it_is_in_the_api_description(service: RunningService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    assert paths["/find"]["post"]["description"] == "Find pages." and "/rerank" not in paths
