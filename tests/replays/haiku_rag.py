"""haiku.rag with the provider vllm, which sends pictures where `reranking.multimodal` is on.

Follows ggozad/haiku.rag, haiku_rag_slim/haiku/rag/reranking/vllm.py (its newest stored version; an older one sends no key and
texts alone). The base URL ends in /v1.
"""

from typing import Any

import httpx

from tests.replays.program import Program, ProgramRequest, Question, Ranking, json_headers, require, require_success


def picture(address: str, caption: str = "") -> dict[str, Any]:
    """The document of a chunk that has a picture. address: a data URI."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": address}}]
    return {"content": [*parts, {"type": "text", "text": caption}] if caption else parts}


def _request(question: Question) -> ProgramRequest:
    body = {"model": "ziprerank", "query": question.query, "documents": list(question.documents)}
    headers = json_headers(question.key, accept="application/json")
    return ProgramRequest(path="/v1/rerank", body=body, headers=headers)


def _read(question: Question, response: httpx.Response) -> Ranking:
    require_success(response)
    ranking: Ranking = []
    for item in response.json().get("results", []):
        require(item["index"] < len(question.documents), "list index out of range")
        ranking.append((item["index"], item["relevance_score"]))
    ranking.sort(key=lambda line: line[1], reverse=True)
    return ranking[: question.wanted]


HAIKU_RAG = Program(
    name="haiku.rag",
    source="ggozad/haiku.rag haiku_rag_slim/haiku/rag/reranking/vllm.py 07098d55 and newer",
    request=_request,
    read=_read,
    shows="status",
)
