"""LightRAG, with each of its three bindings.

Follows HKUDS/LightRAG, lightrag/rerank.py at 08d65b36. Every status but 200 is an error that is tried again twice, 401 too; its
text has the whole body.
"""

import httpx

from tests.replays.program import Program, ProgramFailed, ProgramRequest, Question, Ranking, json_headers, require

_SOURCE = "HKUDS/LightRAG lightrag/rerank.py 08d65b36"


def _cohere_request(question: Question) -> ProgramRequest:
    body = {"model": "rerank-v3.5", "query": question.query, "documents": list(question.documents)}
    return ProgramRequest(path="/v2/rerank", body=body | _top_n(question), headers=json_headers(question.key))


def _jina_request(question: Question) -> ProgramRequest:
    body = {"model": "jina-reranker-v2-base-multilingual", "query": question.query}
    more = {"documents": list(question.documents), **_top_n(question), "return_documents": False}
    return ProgramRequest(path="/v1/rerank", body={**body, **more}, headers=json_headers(question.key))


def _ali_request(question: Question) -> ProgramRequest:
    body = {
        "model": "gte-rerank-v2",
        "input": {"query": question.query, "documents": list(question.documents)},
        "parameters": {**_top_n(question), "return_documents": False},
    }
    path = "/api/v1/services/rerank/text-rerank/text-rerank"
    return ProgramRequest(path=path, body=body, headers=json_headers(question.key))


def _top_n(question: Question) -> dict[str, int]:
    return {} if question.top_n is None else {"top_n": question.top_n}


def _read(question: Question, response: httpx.Response) -> Ranking:
    return _results(response, response.json().get("results", []))


def _ali_read(question: Question, response: httpx.Response) -> Ranking:
    return _results(response, response.json().get("output", {}).get("results", []))


def _results(response: httpx.Response, results: object) -> Ranking:
    if response.status_code != 200:
        raise ProgramFailed(f"Rerank API error: {response.text}")
    require(isinstance(results, list) and bool(results), "Rerank API returned empty results")
    assert isinstance(results, list)
    return [(result["index"], result["relevance_score"]) for result in results]


LIGHTRAG_COHERE = Program(
    name="LightRAG (cohere)", source=_SOURCE, request=_cohere_request, read=_read, shows="message"
)
LIGHTRAG_JINA = Program(name="LightRAG (jina)", source=_SOURCE, request=_jina_request, read=_read, shows="message")
LIGHTRAG_ALI = Program(name="LightRAG (aliyun)", source=_SOURCE, request=_ali_request, read=_ali_read, shows="message")
