"""The cases of single platforms: credential checks, thresholds, images, and forms of documents of their own."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from tests.replays import dify, haiku_rag, nvidia_blueprint, ragflow
from tests.replays.dify import DIFY_JINA, DIFY_OPENAI, DIFY_TEI, DIFY_XINFERENCE
from tests.replays.haiku_rag import HAIKU_RAG
from tests.replays.librechat import LIBRECHAT_JINA
from tests.replays.nvidia_blueprint import NVIDIA_BLUEPRINT
from tests.replays.program import Program, Question, Ranking
from tests.replays.ragflow import RAGFLOW_HUGGINGFACE, RAGFLOW_XINFERENCE
from tests.replays.services import KEY, best_first, relative_scores
from tests.servers import RunningService


def ask(service: RunningService, program: Program, documents: Sequence[Any], top_n: int | None = None) -> Ranking:
    return program.ask(service.client, Question(query="bank loan", documents=documents, key=KEY, top_n=top_n))


def address(shade: int) -> str:
    """The data URI of a small page, one of 256."""
    data = io.BytesIO()
    Image.new("L", (32, 40), shade).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


@pytest.mark.parametrize(
    "program", [DIFY_OPENAI, DIFY_JINA, DIFY_TEI, DIFY_XINFERENCE], ids=lambda program: program.name
)
def test_dify_adds_a_model(service: RunningService, program: Program) -> None:
    """Its check fails where the answer cannot be read; that texts stay above the threshold is the users' concern."""
    question = Question(query=dify.CREDENTIAL_QUERY, documents=dify.CREDENTIAL_CHECK, key=KEY)
    ranking = program.ask(service.client, question)
    assert [place for place, _ in ranking] == best_first(3)
    assert dify.above(ranking, dify.CHECK_THRESHOLD) == ranking[:1]


def test_dify_reads_that_the_model_is_a_reranker(service: RunningService) -> None:
    info = service.client.get("/info", headers={"Authorization": f"Bearer {KEY}"}).json()
    kind, longest, largest = dify.read_tei_info(info)
    assert kind == "reranker" and longest > 0 and largest == 100


def test_difys_client_of_xinference_finds_a_model_that_reranks(service: RunningService) -> None:
    """Before the check of the credentials it asks whether a key is required, without one, and then for the model."""
    assert service.client.get("/v1/cluster/auth").json()["auth"] is True
    model = service.client.get("/v1/models/any-uid", headers={"Authorization": f"Bearer {KEY}"})
    assert model.status_code == 200 and model.json()["model_type"] == "rerank"


@pytest.mark.parametrize("caption", ["", "A chart of rates."], ids=["alone", "with a caption"])
def test_dify_sends_images(service: RunningService, caption: str) -> None:
    """A caption is not looked at: the page is the image, whose tokens are those of an image alone."""
    documents = [dify.picture(address(shade), caption) for shade in (0, 100, 200)]
    assert [place for place, _ in ask(service, DIFY_OPENAI, documents)] == best_first(3)
    body = {"query": "bank loan", "documents": documents}
    headers = {"Authorization": f"Bearer {KEY}"}
    meta = service.client.post("/v1/rerank", json=body, headers=headers).json()["meta"]
    alone = service.client.post("/v1/rerank", json=body | {"documents": [address(0)] * 3}, headers=headers).json()
    assert meta["tokens"] == alone["meta"]["tokens"]
    assert [warning for warning in meta["warnings"] if "not looked at" in warning] == (
        [f"documents[{index}]: a text beside a page was not looked at" for index in range(3)] if caption else []
    )


def test_ragflow_keeps_the_chunks_that_are_near_the_best(service: RunningService) -> None:
    """None has a word of the query. Of twenty chunks those remain whose score is at least 0.2 / 0.7 of the best one's."""
    ranking = ask(service, RAGFLOW_XINFERENCE, [f"chunk {number}" for number in range(20)])
    kept = ragflow.kept(ranking, [0.0] * 20)
    assert kept == sorted(place for place, score in relative_scores(20).items() if score >= 0.2 / 0.7)
    assert 1 <= len(kept) < 20


def test_ragflow_joins_batches_whose_scores_do_not_compare(open_service: RunningService) -> None:
    """Each batch of eight has a best text with 1.0, which docs/clients.md warns of."""
    texts = [f"chunk {number}" for number in range(20)]
    scores = [
        score
        for start in range(0, len(texts), RAGFLOW_HUGGINGFACE.batch)
        for _, score in ask(open_service, RAGFLOW_HUGGINGFACE, texts[start : start + RAGFLOW_HUGGINGFACE.batch])
    ]
    assert len(scores) == 20 and scores.count(1.0) == 3


def test_librechat_asks_for_five_of_many(service: RunningService) -> None:
    ranking = ask(service, LIBRECHAT_JINA, [f"chunk {number}" for number in range(20)])
    assert [place for place, _ in ranking] == best_first(20)[:5]


def test_haiku_rag_sends_pictures_among_texts(service: RunningService) -> None:
    """With objects in the list the scores sum to one."""
    documents = [
        "A chunk without a picture.",
        haiku_rag.picture(address(10)),
        haiku_rag.picture(address(20), "Figure 2: rates of interest"),
        "Another one.",
    ]
    ranking = ask(service, HAIKU_RAG, documents)
    assert [place for place, _ in ranking] == best_first(4)
    assert sum(score for _, score in ranking) == pytest.approx(1.0)


def test_the_blueprint_sends_a_hundred_passages_with_images(service: RunningService) -> None:
    texts = ["", "Caption of a chart", "A table"]
    passages = [nvidia_blueprint.passage(texts[number % 3], address(number)) for number in range(100)]
    ranking = ask(service, NVIDIA_BLUEPRINT, passages, top_n=100)
    assert sorted(place for place, _ in ranking) == list(range(100))
    scores = [score for _, score in ranking]
    assert scores == sorted(scores, reverse=True)
    assert 1 / 3 < scores[-1] < 1 / 2 < scores[0] < 2 / 3


def test_a_threshold_of_a_half_keeps_the_passages_half_as_good_as_the_best(service: RunningService) -> None:
    passages = [nvidia_blueprint.passage("", address(number)) for number in range(20)]
    kept = {place for place, score in ask(service, NVIDIA_BLUEPRINT, passages, top_n=20) if score >= 0.5}
    assert kept == {place for place, score in relative_scores(20).items() if score >= 0.5}
    assert 1 <= len(kept) < 20
