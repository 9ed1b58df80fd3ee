"""LibreChat's web search, which ranks chunks of the pages that it found.

Follows danny-avila/agents, src/tools/search/rerankers.ts (its newest stored version, with a limit of 10 s for Jina and 7 s for
Voyage). After a failure of any kind the chunks keep their order and have a score of 0; the status goes to the log.
"""

import math

import httpx

from tests.replays.program import (
    Program,
    ProgramFailed,
    ProgramRequest,
    Question,
    Ranking,
    json_headers,
    require,
)

_SOURCE = "danny-avila/agents src/tools/search/rerankers.ts 4599c2363f and newer"
_TOP_K = 5


def _wanted(question: Question) -> int:
    return _TOP_K if question.top_n is None else question.top_n


def _jina_request(question: Question) -> ProgramRequest:
    body = {
        "model": "jina-reranker-v2-base-multilingual",
        "query": question.query,
        "top_n": _wanted(question),
        "documents": list(question.documents),
        "return_documents": True,
    }
    return ProgramRequest(path="/v1/rerank", body=body, headers=json_headers(question.key))


def _jina_read(question: Question, response: httpx.Response) -> Ranking:
    """The text that it shows is that of the answer's document, where there is one."""
    _require_status(response)
    results = response.json()["results"]
    require(len(results) > 0, "Unexpected response format from Jina API. Using default ranking.")
    ranking: Ranking = []
    for result in results:
        document = result.get("document")
        if isinstance(document, dict) and "text" in document:
            text = document["text"]
        elif document is None or isinstance(document, str):
            text = document or question.documents[result["index"]]
        else:
            text = ""
        require(text == question.documents[result["index"]], f"shows {text!r} instead of the document")
        ranking.append((result["index"], result["relevance_score"]))
    return ranking


def _voyage_request(question: Question) -> ProgramRequest:
    body = {
        "model": "rerank-2.5",
        "query": question.query,
        "documents": list(question.documents),
        "top_k": _wanted(question),
        "return_documents": False,
        "truncation": False,
    }
    return ProgramRequest(path="/v1/rerank", body=body, headers=json_headers(question.key))


def _voyage_read(question: Question, response: httpx.Response) -> Ranking:
    """It wants exactly as many results as it asked for, with whole indexes in range, none twice, and finite scores."""
    _require_status(response)
    results = response.json().get("data")
    expected = max(0, min(_wanted(question), len(question.documents)))
    is_list = isinstance(results, list) and len(results) == expected
    require(is_list, "Unexpected response format from Voyage API. Using default ranking.")
    seen: set[int] = set()
    for result in results:
        index, score = result["index"], result["relevance_score"]
        is_valid = isinstance(index, int) and 0 <= index < len(question.documents) and index not in seen
        require(is_valid and math.isfinite(score), "Invalid result data from Voyage API. Using default ranking.")
        seen.add(index)
    return [(result["index"], result["relevance_score"]) for result in results]


def _require_status(response: httpx.Response) -> None:
    """As axios does."""
    if response.is_error:
        raise ProgramFailed(f"Request failed with status code {response.status_code}")


LIBRECHAT_JINA = Program(
    name="LibreChat (Jina)", source=_SOURCE, request=_jina_request, read=_jina_read, shows="status"
)
LIBRECHAT_VOYAGE = Program(
    name="LibreChat (Voyage)", source=_SOURCE, request=_voyage_request, read=_voyage_read, shows="status"
)
