"""Every dialect against one service: one order and one set of scores, whatever the client speaks."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from model import PageScores, PreparedRequest, Reranker, score_in_input_order
from service.dialects import DIALECTS
from tests.documents import make_pdf
from tests.patience import eventually
from tests.servers import RunningService, fake_loader, running_service
from tests.service.dialects.bodies import WIRES, Wire

PDF = make_pdf(6)
PDF_URI = f"data:application/pdf;base64,{base64.b64encode(PDF).decode()}"
JSON = {"content-type": "application/json"}
PAGES = [f"ziprerank://report#page={number}" for number in range(1, 7)]
wires = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)


def score_the_middle_best(batch: Sequence[PreparedRequest]) -> list[PageScores]:
    """Scores whose order differs from that of the request."""
    scored = []
    for scores, request in zip(score_in_input_order(batch), batch, strict=True):
        logits = tuple(-0.7 * abs(index - len(request.pages) // 2 + 0.2) for index in range(len(request.pages)))
        order = tuple(sorted(range(len(logits)), key=lambda index: -logits[index]))
        scored.append(replace(scores, logits=logits, order=order))
    return scored


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    loader = fake_loader(reranker, score_the_middle_best)
    with running_service(loader, api_key="right", max_pages=30) as running:
        running.client.headers["Authorization"] = "Bearer right"
        put = running.client.put("/documents/report", content=PDF, headers={"content-type": "application/pdf"})
        assert put.status_code < 300, put.text
        yield running


def post(service: RunningService, wire: Wire, documents: Any, **fields: Any) -> Any:
    response = service.client.post(wire.path, json={**wire.body("locks", documents), **fields})
    assert response.status_code == 200, response.text
    return response.json()


def answer_type(wire: Wire) -> TypeAdapter[Any]:
    [dialect] = [dialect for dialect in DIALECTS if dialect.name == wire.name]
    return TypeAdapter(dialect.routes[0].answer)


@wires
def test_registered_pages_by_string_have_one_order_and_one_set_of_scores(service: RunningService, wire: Wire) -> None:
    expected = post(service, WIRES[0], PAGES)
    answer = post(service, wire, PAGES)
    answer_type(wire).validate_python(answer, strict=True, extra="forbid")
    assert wire.order(answer) == WIRES[0].order(expected) and sorted(wire.order(answer)) == list(range(6))
    scores, expected_scores = dict(wire.scores(answer)), dict(WIRES[0].scores(expected))
    clipped = wire.name == "nim"  # its logits are those of scores in [0.001, 0.999]
    for index, score in scores.items():
        assert isinstance(score, float)
        assert score == pytest.approx(expected_scores[index], abs=2e-3 if clipped else 1e-4)


@wires
def test_a_string_that_names_many_pages_has_one_result(service: RunningService, wire: Wire) -> None:
    answer = post(
        service, wire, ["ziprerank://report", PAGES[0], f"data:application/pdf;base64,{base64.b64encode(PDF).decode()}"]
    )
    assert sorted(wire.order(answer)) == [0, 1, 2]


@wires
def test_results_may_be_asked_for_by_page_where_the_answer_has_room(service: RunningService, wire: Wire) -> None:
    answer = post(service, wire, ["ziprerank://report"], ziprerank={"results": "pages"})
    by_place = wire.name in ("weaviate", "vllm_score")
    assert len(wire.scores(answer)) == (1 if by_place else 6)


@wires
def test_the_kind_of_score_may_be_chosen(service: RunningService, wire: Wire) -> None:
    answer = post(service, wire, PAGES, ziprerank={"score": "rank"})
    scores = sorted((score for _, score in wire.scores(answer)), reverse=True)
    if wire.name != "nim":  # whose scores the test has put through a sigmoid
        assert scores == pytest.approx([6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


@wires
def test_a_wrong_document_is_named_by_its_place_in_the_clients_words(service: RunningService, wire: Wire) -> None:
    response = service.client.post(wire.path, json=wire.body("locks", [PAGES[0], "ziprerank://nowhere"]))
    assert response.status_code == 404
    body = response.json()
    message = body["error"] if isinstance(body["error"], str) else body["message"]
    assert "nowhere" in message and body["code"] == "document_not_found"
    assert body["request_id"] == response.headers["x-request-id"]
    malformed = service.client.post(wire.path, json=wire.body("locks", [PAGES[0], 7]))  # type: ignore[list-item]
    name = {"tei": "texts", "nim": "passages", "elastic": "input"}.get(wire.name, "documents")
    assert malformed.status_code == 400 and f"{name}[1]: send a string" in malformed.text


@wires
def test_the_request_is_counted_under_its_dialect(service: RunningService, wire: Wire) -> None:
    def counted() -> float:
        return service.metric("ziprerank_requests_total", route=wire.path, dialect=wire.name, code="200")

    before = counted()
    post(service, wire, PAGES[:2])
    eventually(lambda: counted() == before + 1)


@pytest.mark.parametrize("name", ["top_n", "top_k", "limit"])
def test_fewer_results_are_asked_for_by_any_of_three_names(service: RunningService, name: str) -> None:
    for wire in WIRES[:4]:
        answer = post(service, wire, PAGES, **{name: 2})
        assert wire.order(answer) == WIRES[0].order(post(service, WIRES[0], PAGES))[:2]
        assert len(wire.scores(post(service, wire, PAGES, **{name: 0}))) == 6
        assert len(wire.scores(post(service, wire, PAGES, **{name: "3"}))) == 3


def test_over_several_windows_scores_are_ranks_with_a_warning(service: RunningService) -> None:
    twice = [*PAGES, *PAGES, *PAGES, *PAGES]
    for score in ("softmax", "relative", "logit"):
        body = post(service, WIRES[0], twice, ziprerank={"score": score})
        assert body["meta"]["score"] == "rank" and f"and not {score}" in body["meta"]["warnings"][0]
        expected = [(24 - place) / 24 for place in range(24)]
        assert [score for _, score in WIRES[0].scores(body)] == pytest.approx(expected)
    assert post(service, WIRES[0], twice, ziprerank={"score": "rank"})["meta"]["warnings"] == []
    nim = post(service, WIRES[2], twice)
    assert WIRES[2].scores(nim)[0][1] == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("documents", "kind"),
    [(PAGES, "relative"), ([{"id": "report"}], "softmax"), ([{"id": "report"}, PAGES[0]], "softmax")],
    ids=["strings", "objects", "both"],
)
def test_strings_have_scores_that_survive_thresholds(service: RunningService, documents: Any, kind: str) -> None:
    body = post(service, WIRES[0], documents)
    scores = [line["relevance_score"] for line in body["results"]]
    assert body["meta"]["score"] == kind and body["data"] == body["results"]
    assert scores[0] == 1.0 if kind == "relative" else sum(scores) == pytest.approx(1.0)
    assert body["usage"]["completion_tokens"] == 0
    raw = post(service, WIRES[0], documents, raw_scores="true")  # RAGFlow's Xinference client sends such booleans
    assert raw["meta"]["score"] == "logit"
    assert post(service, WIRES[0], documents, use_activation=False)["results"] == raw["results"]


def test_scores_are_written_with_a_decimal_point(service: RunningService) -> None:
    """OpenSearch casts the value and fails on an integer."""
    response = service.client.post("/v1/rerank", json=WIRES[0].body("locks", PAGES[:1]))
    assert '"relevance_score":1.0' in response.text


@wires
@pytest.mark.parametrize("kind", ["softmax", "relative", "logit", "rank"])
def test_scores_are_written_in_few_characters(service: RunningService, wire: Wire, kind: str) -> None:
    """OpenSearch's parser takes a number of more than 18 for a decimal, which its cast to a double refuses."""
    body = wire.body("locks", PAGES) | {"ziprerank": {"score": kind}}
    response = service.client.post(wire.path, json=body)
    numbers = re.findall(r'"(?:relevance_score|score|logit)":(-?\d[^,}\]]*)', response.text)
    assert len(numbers) >= len(PAGES) and max(map(len, numbers)) <= 18, numbers


def test_the_default_kind_is_a_setting(reranker: Reranker) -> None:
    with running_service(fake_loader(reranker), score="rank") as service:
        for documents in ([PDF_URI, PDF_URI], [{"pdf": PDF_URI}]):
            assert post(service, WIRES[0], documents)["meta"]["score"] == "rank"
        assert post(service, WIRES[0], [PDF_URI], ziprerank={"score": "logit"})["meta"]["score"] == "logit"


@pytest.mark.parametrize("wire", WIRES[1:2] + WIRES[4:5], ids=lambda wire: wire.name)
def test_text_of_a_reference_is_the_reference_as_it_was_sent(service: RunningService, wire: Wire) -> None:
    for line in post(service, wire, ["ziprerank://report", PAGES[3]], return_text=True):
        assert line.get("text", line.get("document")) == ["ziprerank://report", PAGES[3]][line["index"]]


def test_weaviate_gets_its_strings_back_but_no_binary_content(service: RunningService) -> None:
    answer = post(service, WIRES[5], [PAGES[2], PDF_URI])
    assert answer["scores"][0]["document"] == PAGES[2]
    assert answer["scores"][1]["document"].startswith("document-1#page=") and answer["query"] == "locks"


# vLLM's names, other routes, other forms


@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")]
)
def test_scores_take_four_pairs_of_names(service: RunningService, names: tuple[str, str]) -> None:
    for query in ("locks", ["locks"], ["locks"] * 3):
        response = service.client.post("/v1/score", json={names[0]: query, names[1]: PAGES[:3]})
        assert [line["index"] for line in response.json()["data"]] == [0, 1, 2], response.text
    several = service.client.post("/v1/score", json={names[0]: ["locks", "keys"], names[1]: PAGES[:2]})
    assert several.status_code == 400 and "several queries" in several.json()["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking", "/providers/cohere/v2/rerank",
        "/compatible-api/v1/reranks", "/rerank/", "/v1/rerank/",
    ],
)  # fmt: skip
def test_every_path_of_the_usual_formats(service: RunningService, path: str) -> None:
    response = service.client.post(path, json={"query": "locks", "documents": PAGES})
    assert response.status_code == 200 and len(response.json()["results"]) == 6
    tei = service.client.post(path, json={"query": "locks", "texts": PAGES})
    assert [line["index"] for line in tei.json()] == [line["index"] for line in response.json()["results"]]


@pytest.mark.parametrize("model", ["nvidia/llama-3.2-rerank", "rerank-vl", "nvidia/a/b"])
def test_the_hosted_routes_of_nim_have_the_model_in_their_path(service: RunningService, model: str) -> None:
    body = {**WIRES[2].body("locks", PAGES), "top_k": 2}
    response = service.client.post(f"/v1/retrieval/{model}/reranking", json=body)
    assert response.status_code == 200 and len(response.json()["rankings"]) == 2


@pytest.mark.parametrize(
    "query",
    [
        {"text": "locks"},
        {"content": [{"type": "text", "text": "locks"}]},
        {"type": "text", "value": "locks"},
        [{"text": "locks"}],
    ],
    ids=json.dumps,
)
def test_a_query_may_be_an_object(service: RunningService, query: Any) -> None:
    body = {"query": query, "documents": PAGES}
    assert service.client.post("/v1/rerank", json=body).json()["results"] == post(service, WIRES[0], PAGES)["results"]


def test_an_image_in_the_query_is_refused(service: RunningService) -> None:
    query = {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
    response = service.client.post("/v1/rerank", json={"query": query, "documents": PAGES})
    assert response.status_code == 400 and "text parts only" in response.json()["message"]


def test_a_body_without_content_type_is_json(service: RunningService) -> None:
    content = json.dumps(WIRES[5].body("locks", PAGES)).encode()
    request = service.client.build_request("POST", "/rerank", content=content)
    assert "content-type" not in request.headers
    assert service.client.send(request).status_code == 200


def test_broken_json_is_located(service: RunningService) -> None:
    response = service.client.post("/rerank", content=b'{"query": "locks",\n "documents" []}', headers=JSON)
    assert response.status_code == 400 and "line 2 column" in response.json()["message"]
    for other in (b"[1, 2]", b"7", b'"text"', b"null"):
        refused = service.client.post("/rerank", content=other, headers=JSON)
        assert (refused.status_code, refused.json()["message"]) == (400, "body: send a JSON object.")


# Keys, HEAD, probes


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": "Bearer right"}, {"Authorization": "right"}, {"X-API-Key": "right"}, {"api-key": "right"},
    ],
    ids=str,
)  # fmt: skip
@wires
def test_every_dialect_takes_every_form_of_key(service: RunningService, wire: Wire, header: dict[str, str]) -> None:
    del service.client.headers["Authorization"]
    try:
        body = wire.body("locks", PAGES[:2])
        assert service.client.post(wire.path, json=body, headers=header).status_code == 200
        wrong = {name: value.replace("right", "wrong") for name, value in header.items()}
        refused = service.client.post(wire.path, json=body, headers=wrong)
        assert refused.status_code == 401 and "API key is missing or wrong" in refused.text
    finally:
        service.client.headers["Authorization"] = "Bearer right"


@pytest.mark.parametrize(
    "path",
    [
        "/livez", "/readyz", "/health", "/health_check", "/ping", "/.well-known/ready", "/.well-known/live",
        "/v1/health/live", "/v1/health/ready", "/models", "/v1/models", "/meta", "/version", "/info", "/metrics",
        "/v1/metrics", "/documents", "/openapi.json",
    ],
)  # fmt: skip
def test_head_and_a_slash_at_the_end_work_on_every_get_route(service: RunningService, path: str) -> None:
    got = service.client.get(path)
    assert got.status_code == 200, got.text
    head = service.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/openapi.json":
        slashed = service.client.get(f"{path}/", follow_redirects=False)
        assert slashed.status_code == 200


def test_descriptions_have_the_members_that_clients_read(service: RunningService) -> None:
    info = service.client.get("/info").json()
    assert info["model_type"] == {"reranker": {"id2label": {}, "label2id": {}}}
    assert info["max_client_batch_size"] == 30 and info["max_input_length"] > 0
    nim = service.client.get("/v1/health/ready").json()
    assert nim == {"object": "health.response", "message": "Service is ready.", "status": "ready"}
    assert service.client.get("/models").json() == service.client.get("/v1/models").json()
    assert service.client.get("/v1/cluster/auth", headers={"Authorization": ""}).json() == {"auth": True}
    [listed] = service.client.get("/v1/models").json()["data"]
    described = service.client.get("/v1/models/any/name").json()
    assert described == {**listed, "id": "any/name", "model_type": "rerank", "model_name": listed["id"]}
