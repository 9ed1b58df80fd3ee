"""OpenSearch's rerank processor with a connector, as docs/clients.md sets it up.

Follows opensearch-project/ml-commons: connector/functions/preprocess/CohereRerankPreProcessFunction.java and
connector/functions/postprocess/CohereRerankPostProcessFunction.java at 04918e57, both below
common/src/main/java/org/opensearch/ml/common, and algorithms/remote/ConnectorUtils.java at 0057be3f; and
opensearch-project/neural-search, processor/rerank/RescoringRerankProcessor.java at 14862bb6.

The answer is parsed by JsonPath, which gives a BigDecimal for a number of more than 18 characters and an Integer for one
without a point (json-path 2.10.0 with json-smart 2.6.0, tried). The function casts to Double: both make the search fail.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.documentation import block
from tests.replays.program import Program, ProgramFailed, ProgramRequest, Question, Ranking, require

_LONGEST_DOUBLE = 18
_PARAMETER = re.compile(r"\$\{(parameters|credential)\.(\w+)\}")


class _Literal(float):
    """A number as it was written."""

    text: str


def connector() -> dict[str, Any]:
    """The connector of docs/clients.md, by which requests are built."""
    recipe: dict[str, Any] = json.loads(block("replay opensearch").text)
    return recipe


def _request(question: Question) -> ProgramRequest:
    recipe = connector()
    [action] = recipe["actions"]
    values = {
        "parameters": {
            **recipe["parameters"],
            "query": json.dumps(question.query)[1:-1],
            "documents": json.dumps(list(question.documents)),
            "top_n": str(len(question.documents)),
        },
        "credential": {name: question.key or "" for name in recipe["credential"]},
    }

    def filled(template: str) -> str:
        return _PARAMETER.sub(lambda found: values[found[1]][found[2]], template)

    headers = {"Content-Type": "application/json"} | {name: filled(value) for name, value in action["headers"].items()}
    assert action["method"] == "POST"
    assert action["pre_process_function"] == "connector.pre_process.cohere.rerank"
    assert action["post_process_function"] == "connector.post_process.cohere.rerank"
    return ProgramRequest(path=urlsplit(action["url"]).path, body=filled(action["request_body"]), headers=headers)


def _read(question: Question, response: httpx.Response) -> Ranking:
    """As many scores as results, each at its index; the search hits must be as many."""
    if not response.is_success:
        raise ProgramFailed(f"Error from remote service: {response.text}")
    results = json.loads(response.text, parse_float=_literal)["results"]
    require(isinstance(results, list), "Post process function input is not a List.")
    require(bool(results) and {"index", "relevance_score"} <= results[0].keys(), "should contain index and score")
    scores: list[float] = [0.0] * len(results)
    for result in results:
        score = result["relevance_score"]
        require(isinstance(score, _Literal), f"class java.lang.Integer cannot be cast to class Double: {score}")
        require(len(score.text) <= _LONGEST_DOUBLE, f"class BigDecimal cannot be cast to class Double: {score.text}")
        require(result["index"] < len(scores), f"Index {result['index']} out of bounds for length {len(scores)}")
        scores[result["index"]] = float(score)
    require(len(scores) == len(question.documents), "scores and hits are not the same length")
    return list(enumerate(scores))


def _literal(text: str) -> _Literal:
    number = _Literal(text)
    number.text = text
    return number


OPENSEARCH = Program(
    name="OpenSearch",
    source="opensearch-project/ml-commons common/src/main/java/org/opensearch/ml/common/connector/functions/postprocess/"
    "CohereRerankPostProcessFunction.java 04918e57",
    request=_request,
    read=_read,
    shows="message",
    sends_top_n=False,
)
