"""The affinity contract: logs hold only a hash of the key, and the answer and the log name the replica."""

import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from model import Reranker
from service.dialects import DIALECTS
from service.http.affinity import affinity_mark
from service.http.route_table import RouteTable
from tests.documents import make_image
from tests.servers import RunningService, fake_loader, running_service, settings_for_tests
from tests.service.http.requests import rerank_file

KEY = "board-minutes-2026"
PNG = ("a.png", make_image(64, 64), "image/png")
MARK = hashlib.sha256(KEY.encode()).hexdigest()[:12]


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker), replica="gpu-0") as running:
        yield running


def request_line(service: RunningService, caplog: pytest.LogCaptureFixture, answer: httpx.Response) -> str:
    """The log line of `answer`, which comes before that of any later request."""
    service.client.get("/documents/unknown")
    [line] = [message for message in caplog.messages if f"id={answer.headers['x-request-id']} " in message]
    return line


def test_the_header_reaches_the_log_as_a_hash_prefix_beside_the_replicas_name(
    service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="service.http.exchange"):
        answer = rerank_file(service, PNG, headers={"X-ZipRerank-Affinity": KEY})
        line = request_line(service, caplog, answer)
    assert answer.status_code == 200 and answer.headers["x-ziprerank-replica"] == "gpu-0"
    assert f" replica=gpu-0 affinity={MARK}" in line
    assert KEY not in caplog.text


def test_without_a_key_there_is_none_in_the_log(service: RunningService, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="service.http.exchange"):
        line = request_line(service, caplog, rerank_file(service, PNG))
    assert "replica=gpu-0" in line and "affinity=" not in line


@pytest.mark.parametrize("path", [f"/v1/documents/{KEY}/rerank", f"/documents/{KEY}/rerank", f"/v1/documents/{KEY}"])
def test_the_id_in_the_path_is_the_same_key_as_in_the_header(path: str) -> None:
    id_of_path = RouteTable.of_dialects(DIALECTS).document_id(path)
    assert affinity_mark(Headers(), id_of_path) == MARK
    assert affinity_mark(Headers({"x-ziprerank-affinity": KEY}), None) == MARK
    assert affinity_mark(Headers({"x-ziprerank-affinity": "another"}), id_of_path) != MARK  # the header wins


@pytest.mark.parametrize("path", ["/rerank", "/v1/documents", "/v1/documents/", "/v1/documents/a/b/rerank"])
def test_other_paths_have_no_key(path: str) -> None:
    assert affinity_mark(Headers(), RouteTable.of_dialects(DIALECTS).document_id(path)) is None


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/info", "/no-such-route", "/documents/unknown"])
def test_every_answer_names_the_replica(service: RunningService, path: str) -> None:
    assert service.client.get(path).headers["x-ziprerank-replica"] == "gpu-0"


def test_the_replica_is_by_default_a_name_that_a_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "büro 7")
    assert re.fullmatch(r"[A-Za-z0-9._:-]+", settings_for_tests().replica)
    with pytest.raises(ValidationError, match="replica"):
        settings_for_tests(replica="two\r\nlines")


def test_the_api_description_contains_header_and_path_form(service: RunningService) -> None:
    description = service.client.get("/openapi.json").json()
    for path in ("/rerank", "/v1/rerank", "/documents/{id}/rerank", "/v1/documents/{id}/rerank"):
        names = {parameter["name"] for parameter in description["paths"][path]["post"]["parameters"]}
        assert names == {"X-ZipRerank-Affinity", "X-Request-Id", "X-Request-Timeout-Ms"} | (
            {"id"} if "{id}" in path else set()
        )


@pytest.mark.parametrize(
    ("path", "body", "in_json", "in_a_form"),
    [
        ("/rerank", "RerankRequest", {"query", "documents"}, {"query", "file"}),
        ("/documents/{id}/rerank", "DocumentRerankRequest", {"query"}, {"query"}),
    ],
)
def test_documents_are_required_where_the_path_names_none(
    service: RunningService, path: str, body: str, in_json: set[str], in_a_form: set[str]
) -> None:
    description = service.client.get("/openapi.json").json()
    for prefix in ("", "/v1"):
        forms = description["paths"][prefix + path]["post"]["requestBody"]["content"]
        schema, named = forms["application/json"]["schema"], {"$ref": f"#/components/schemas/{body}"}
        assert schema == named or named in schema["anyOf"]
        assert set(forms["multipart/form-data"]["schema"]["required"]) == in_a_form
    assert set(description["components"]["schemas"][body]["required"]) == in_json
