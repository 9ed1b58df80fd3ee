"""Elasticsearch's inference endpoint with the service `custom`, as docs/clients.md sets it up.

Follows elastic/elasticsearch, x-pack/plugin/inference/src/main/java/org/elasticsearch/xpack/inference/services/custom:
request/CustomRequest.java at 429e1640, request/RerankParameters.java at 9e97819a with its tests,
response/RerankResponseParser.java at 7df83487, response/BaseCustomResponseParser.java at 3df0f709 and
response/CustomErrorResponseEntity.java at 189edba4. `${query}` and `${input}` are filled in as JSON. A placeholder without a
value is refused, which `${top_n}` is in searches.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.documentation import block
from tests.replays.program import Program, ProgramFailed, ProgramRequest, Question, Ranking, require

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_PATH = re.compile(r"\$\.(\w+)\[\*\]\.(\w+)")


def endpoint() -> dict[str, Any]:
    """The body of `PUT _inference/rerank/…` in docs/clients.md."""
    _, _, body = block("replay elasticsearch").text.partition("\n")
    recipe: dict[str, Any] = json.loads(body)
    return recipe


def _request(question: Question) -> ProgramRequest:
    settings = endpoint()["service_settings"]
    assert endpoint()["service"] == "custom"
    secrets = {name: question.key or "" for name in settings["secret_parameters"]}
    values = {"query": json.dumps(question.query), "input": json.dumps(list(question.documents))}
    body = _PLACEHOLDER.sub(lambda found: values[found[1]], settings["request"])
    headers = {"Content-Type": "application/json"} | {
        name: _PLACEHOLDER.sub(lambda found: secrets[found[1]], value) for name, value in settings["headers"].items()
    }
    return ProgramRequest(path=urlsplit(settings["url"]).path, body=body, headers=headers)


def _read(question: Question, response: httpx.Response) -> Ranking:
    """Scores and indexes by the paths of the recipe, which must give as many of both."""
    if not response.is_success:
        raise ProgramFailed(f"Received a server error response: {response.status_code}, body: {response.json()}")
    parser = endpoint()["service_settings"]["response"]["json_parser"]
    body = response.json()
    scores, indexes = (_extract(body, parser[name]) for name in ("relevance_score", "reranked_index"))
    require(len(indexes) == len(scores), f"index fields [{len(indexes)}], scores [{len(scores)}]")
    for number in (*scores, *indexes):
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        require(is_number, f"Unable to convert field of type [{type(number).__name__}] to Number")
    return [(int(index), float(score)) for index, score in zip(indexes, scores, strict=True)]


def _extract(body: Any, path: str) -> list[Any]:
    """The field of every element of a list: `$.list[*].field`."""
    found = _PATH.fullmatch(path)
    assert found, path
    return [element[found[2]] for element in body[found[1]]]


ELASTICSEARCH = Program(
    name="Elasticsearch",
    source="elastic/elasticsearch x-pack/plugin/inference/src/main/java/org/elasticsearch/xpack/inference/services/custom/"
    "response/RerankResponseParser.java 7df83487",
    request=_request,
    read=_read,
    shows="message",
    sends_top_n=False,
)
