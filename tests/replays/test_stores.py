"""The cases of single stores: the probes that they wait for, the numbers that they can read, the parts of a split list."""

import pytest

from tests.replays import milvus
from tests.replays.milvus import MILVUS_VLLM
from tests.replays.opensearch import OPENSEARCH
from tests.replays.program import ProgramFailed, Question
from tests.replays.services import KEY
from tests.replays.weaviate import CHUNK, WEAVIATE
from tests.servers import RunningService


def test_weaviate_waits_for_the_service_and_asks_what_it_is(open_service: RunningService) -> None:
    assert open_service.client.get("/.well-known/ready").status_code <= 299
    assert isinstance(open_service.client.get("/meta").json(), dict)


def test_weaviate_names_no_content_type(open_service: RunningService) -> None:
    """The replay would else prove nothing about a body without one."""
    question = Question(query="bank loan", documents=["one", "two"], key=None)
    request = WEAVIATE.request(question).send(open_service.client).request
    assert "content-type" not in request.headers and "authorization" not in request.headers


def test_weaviates_objects_without_the_property_are_refused(open_service: RunningService) -> None:
    """It sends an empty string for each; docs/clients.md says to leave them out."""
    with pytest.raises(ProgramFailed, match=r"status 422: documents\[1\].*empty"):
        WEAVIATE.ask(open_service.client, Question(query="bank loan", documents=["one", ""], key=None))


def test_a_chunk_of_weaviate_is_one_request(open_service: RunningService) -> None:
    texts = [f"object {number}" for number in range(CHUNK)]
    ranking = WEAVIATE.ask(open_service.client, Question(query="bank loan", documents=texts, key=None))
    assert [score for _, score in ranking].count(1.0) == 1


def test_opensearch_reads_every_score_as_a_double(service: RunningService) -> None:
    """For each number of hits up to three windows: full digits, small numbers, and 1.0."""
    for count in (1, 2, 3, 7, 20, 21, 60):
        texts = [f"hit {number}" for number in range(count)]
        ranking = OPENSEARCH.ask(service.client, Question(query="bank loan", documents=texts, key=KEY))
        assert max(score for _, score in ranking) == 1.0


@pytest.mark.parametrize(
    ("number", "fault"), [("1", "Integer"), ("0.049787068367863944", "BigDecimal")], ids=["no point", "too long"]
)
def test_opensearch_fails_on_other_numbers(service: RunningService, number: str, fault: str) -> None:
    """The reading of the replay, by an answer that the service does not give."""
    question = Question(query="bank loan", documents=["one"], key=KEY)
    answer = OPENSEARCH.request(question).send(service.client)
    answer._content = answer.content.replace(b'"relevance_score":1.0', f'"relevance_score":{number}'.encode())
    with pytest.raises(ProgramFailed, match=fault):
        OPENSEARCH.read(question, answer)


def test_milvus_splits_at_more_than_a_page_of_hits() -> None:
    """As the recipes set it up."""
    for recipe in ("milvus vllm", "milvus tei"):
        params = milvus.function_params(recipe)
        assert params["max_client_batch_size"] == 100
        assert params["provider"] == recipe.removeprefix("milvus ") and params["queries"]


def test_milvus_fills_the_scores_of_a_hundred_hits(service: RunningService) -> None:
    texts = [f"hit {number}" for number in range(100)]
    ranking = MILVUS_VLLM.ask(service.client, Question(query="bank loan", documents=texts, key=KEY))
    assert len({score for _, score in ranking}) == 100
