"""NVIDIA's RAG Blueprint with a reranker whose model name has `rerank-vl` in it, which gets the images of passages.

Follows NVIDIA-AI-Blueprints/rag: its multimodal reranker (the class `NVIDIAVLMRerank`, stored without its commit) and
src/nvidia_rag/rag_server/document_formatter.py at 8bf02756. All passages go in one request, by default up to 100. A logit
becomes a score by a sigmoid of its tenth, so that the service's scores lie between 1/3 and 2/3, and 0.5 stands for
half of the best passage's. `top_n` is cut by the Blueprint itself.
"""

import math
from typing import Any

import httpx

from tests.replays.program import Program, ProgramRequest, Question, Ranking, json_headers, require, require_success
from tests.replays.ragflow import log_odds

_SCALE = 0.1


def passage(text: str, address: str = "") -> dict[str, Any]:
    """A passage, whose text may be empty. address: of its image, a data URI of a PNG."""
    return {"text": text, "image": address} if address else {"text": text}


def sigmoid_of_a_tenth(logit: float) -> float:
    return 1 / (1 + math.exp(-_SCALE * logit))


def _request(question: Question) -> ProgramRequest:
    passages = [passage(each) if isinstance(each, str) else each for each in question.documents]
    body = {"model": "nvidia/llama-nemotron-rerank-vl-1b-v2", "query": {"text": question.query}, "passages": passages}
    headers = {**json_headers(question.key), "Accept": "application/json"}
    return ProgramRequest(path="/v1/ranking", body=body, headers=headers)


def _read(question: Question, response: httpx.Response) -> Ranking:
    """In the order of the answer, as far as `top_n`."""
    require_success(response)
    ranking: Ranking = []
    for line in response.json().get("rankings", [])[: question.wanted]:
        index = line.get("index")
        is_valid = isinstance(index, int) and 0 <= index < len(question.documents)
        require(is_valid, "invalid response from VLM reranker: index out of range")
        ranking.append((index, sigmoid_of_a_tenth(line.get("logit"))))
    return ranking


NVIDIA_BLUEPRINT = Program(
    name="NVIDIA RAG Blueprint",
    source="NVIDIA-AI-Blueprints/rag src/nvidia_rag/rag_server/document_formatter.py 8bf02756",
    request=_request,
    read=_read,
    shows="status",
    score=lambda relative: sigmoid_of_a_tenth(log_odds(relative)),
)
