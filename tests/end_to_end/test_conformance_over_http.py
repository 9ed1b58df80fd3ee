"""The published numbers again, through the real service: JSON in, letter logits out."""

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from model import FakeRankingModel, Observe, PreparedRequest
from service.app import load_reranker
from service.settings import Settings
from tests.conformance import CASES, CHECKPOINT, TOLERANCE, WINDOW_CASES, Case, WindowCase, page_path
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import RunningService, running_service


class GatedScores(FakeRankingModel):
    """The real scores, and batches that start only while a gate is open."""

    gate = Event()
    held: int = 0
    """Requests of the batch at the closed gate."""

    def start(self, batch: Sequence[PreparedRequest], *, observe: Observe, between_layers: Any = None) -> Any:
        GatedScores.held = len(batch)
        assert self.gate.wait(PATIENCE_SECONDS)
        return self.model.start(batch, observe=observe)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    def load(settings: Settings) -> Any:
        return GatedScores(model=load_reranker(settings))

    GatedScores.gate.set()
    with running_service(load, model=str(CHECKPOINT), keep_ratio=1.0) as running:
        yield running


def body(query: str, page_names: tuple[str, ...], **options: Any) -> dict[str, Any]:
    documents = [{"image": base64.b64encode(page_path(name).read_bytes()).decode(), "id": name} for name in page_names]
    return {"query": query, "documents": documents, "raw_scores": True, "ziprerank": options}


def check(answer: dict[str, Any], case: Case) -> None:
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert tuple(result["index"] for result in answer["results"]) == case.ranking
    assert [scores[index] for index in range(len(case.scores))] == pytest.approx(case.scores, abs=TOLERANCE)
    assert answer["meta"]["score"] == "logit"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scores_and_order_are_the_published_ones(service: RunningService, case: Case) -> None:
    response = service.client.post("/rerank", json=body(case.query, case.page_names, keep_ratio=case.keep_ratio))
    assert response.status_code == 200, response.text
    check(response.json(), case)
    assert [result["id"] for result in response.json()["results"]] == [case.page_names[i] for i in case.ranking]


@pytest.mark.parametrize("case", WINDOW_CASES, ids=lambda case: case.name)
def test_windows_give_the_published_order(service: RunningService, case: WindowCase) -> None:
    options = {"window_size": case.window_size, "stride": case.stride, "include_timings": True}
    answer = service.client.post("/v1/rerank", json=body(case.query, case.page_names, **options)).json()
    assert tuple(result["index"] for result in answer["results"]) == case.ranking
    count = len(case.page_names)
    expected = [(count - rank) / count for rank in range(count)]
    assert [result["relevance_score"] for result in answer["results"]] == pytest.approx(expected)
    assert answer["meta"]["score"] == "rank"
    assert any("raw_scores has no effect" in warning for warning in answer["meta"]["warnings"])


def test_requests_sent_at_once_score_as_each_does_alone(service: RunningService) -> None:
    """The first batch is held until it has several requests or leaves several waiting, which then become a batch."""
    cases = [case for case in CASES if not case.is_resized] * 2

    def rerank(case: Case) -> dict[str, Any]:
        answer = service.client.post("/rerank", json=body(case.query, case.page_names, keep_ratio=case.keep_ratio))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    GatedScores.held = 0
    GatedScores.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(rerank, cases)
        try:
            eventually(lambda: GatedScores.held > 1 or service.metric("ziprerank_requests_waiting") > 1)
        finally:
            GatedScores.gate.set()
        for case, answer in zip(cases, answers, strict=True):
            check(answer, case)
    assert service.metric("ziprerank_batch_requests_sum") > service.metric("ziprerank_batch_requests_count")
