"""RAGFlow, with each of the model providers that can be pointed at a server of one's own.

Follows infiniflow/ragflow, rag/llm/rerank_model.py at 5b404a91, and for the sum that it ranks chunks by rag/nlp/search.py at
002fa17f (`rerank_by_model`). The documents are the tokens of its chunks, in lower case and without punctuation, so that
a `ziprerank://` address in a chunk does not arrive. Bodies are read whatever the status; the body of a refusal goes to its log.
"""

import math

import httpx

from tests.replays.program import (
    Program,
    ProgramFailed,
    ProgramRequest,
    Question,
    Ranking,
    filled_by_index,
    json_headers,
    require,
    require_success,
)

_SOURCE = "infiniflow/ragflow rag/llm/rerank_model.py 5b404a91"
_HUGGINGFACE_BATCH = 8
SIMILARITY_THRESHOLD = 0.2
VECTOR_WEIGHT = 0.7  # of the reranker's scores in the sum


def kept(ranking: Ranking, token_similarities: list[float]) -> list[int]:
    """Chunks whose weighted sum of token similarity and score reaches the threshold."""
    return [
        index
        for index, score in ranking
        if (1 - VECTOR_WEIGHT) * token_similarities[index] + VECTOR_WEIGHT * score >= SIMILARITY_THRESHOLD
    ]


def _xinference_request(question: Question) -> ProgramRequest:
    body = {
        "model": "ziprerank",
        "query": question.query,
        "return_documents": "true",
        "return_len": "true",
        "documents": list(question.documents),
    }
    headers = json_headers(question.key, accept="application/json")
    return ProgramRequest(path="/v1/rerank", body=body, headers=headers)


def _cohere_request(question: Question) -> ProgramRequest:
    """By Cohere's client of version 1, also for the provider VLLM."""
    body = {
        "model": "ziprerank",
        "query": question.query,
        "documents": list(question.documents),
        "top_n": len(question.documents),
        "return_documents": False,
    }
    return ProgramRequest(path="/v1/rerank", body=body, headers=json_headers(question.key))


def _localai_request(question: Question) -> ProgramRequest:
    body = {
        "model": "ziprerank",
        "query": question.query,
        "documents": list(question.documents),
        "top_n": len(question.documents),
    }
    return ProgramRequest(path="/rerank", body=body, headers=json_headers(question.key))


def _gpustack_request(question: Question) -> ProgramRequest:
    return ProgramRequest(path="/v1/rerank", body=_localai_request(question).body, headers=json_headers(question.key))


def _nvidia_request(question: Question) -> ProgramRequest:
    body = {
        "model": "nv-rerank-qa-mistral-4b:1",
        "query": {"text": question.query},
        "passages": [{"text": text} for text in question.documents],
        "truncate": "END",
        "top_n": len(question.documents),
    }
    headers = json_headers(question.key, accept="application/json")
    return ProgramRequest(path="/v1/retrieval/nvidia/reranking", body=body, headers=headers)


def _huggingface_request(question: Question) -> ProgramRequest:
    """One of the batches; its client sends no key."""
    body = {"query": question.query, "texts": list(question.documents), "raw_scores": False, "truncate": True}
    return ProgramRequest(path="/rerank", body=body)


def _read(question: Question, response: httpx.Response) -> Ranking:
    body = response.json()
    if "results" not in body:
        raise ProgramFailed(str(body))
    return filled_by_index(len(question.documents), body["results"], "relevance_score")


def _gpustack_read(question: Question, response: httpx.Response) -> Ranking:
    require_success(response)
    return _read(question, response)


def _localai_read(question: Question, response: httpx.Response) -> Ranking:
    """The scores are stretched, so that the worst has 0 and the best 1."""
    ranking = _read(question, response)
    scores = [score for _, score in ranking]
    worst, best = min(scores), max(scores)
    if math.isclose(worst, best, abs_tol=1e-3):
        return [(index, 0.0) for index, _ in ranking]
    return [(index, (score - worst) / (best - worst)) for index, score in ranking]


def _nvidia_read(question: Question, response: httpx.Response) -> Ranking:
    body = response.json()
    if "rankings" not in body:
        raise ProgramFailed(str(body))
    return filled_by_index(len(question.documents), body["rankings"], "logit")


def _huggingface_read(question: Question, response: httpx.Response) -> Ranking:
    body = response.json()
    require(isinstance(body, list), "string indices must be integers")  # of the keys of an error's body
    return filled_by_index(len(question.documents), body, "score")


def log_odds(relative: float) -> float:
    """The logit that NIM's format has for a relative score."""
    clipped = min(max(relative, 0.001), 0.999)
    return math.log(clipped / (1 - clipped))


RAGFLOW_XINFERENCE = Program(
    name="RAGFlow (Xinference)",
    source=_SOURCE,
    request=_xinference_request,
    read=_read,
    shows="message",
    sends_top_n=False,
)
RAGFLOW_VLLM = Program(
    name="RAGFlow (VLLM)",
    source=_SOURCE,
    request=_cohere_request,
    read=_gpustack_read,  # Cohere's client raises for every other status; tests/clients runs the client itself
    shows="status",
    sends_top_n=False,
)
RAGFLOW_LOCALAI = Program(
    name="RAGFlow (LocalAI)",
    source=_SOURCE,
    request=_localai_request,
    read=_localai_read,
    shows="message",
    sends_top_n=False,
)
RAGFLOW_GPUSTACK = Program(
    name="RAGFlow (GPUStack)",
    source=_SOURCE,
    request=_gpustack_request,
    read=_gpustack_read,
    shows="status",
    sends_top_n=False,
)
RAGFLOW_NVIDIA = Program(
    name="RAGFlow (NVIDIA)",
    source=_SOURCE,
    request=_nvidia_request,
    read=_nvidia_read,
    shows="message",
    sends_top_n=False,
    score=log_odds,
)
RAGFLOW_HUGGINGFACE = Program(
    name="RAGFlow (HuggingFace)",
    source=_SOURCE,
    request=_huggingface_request,
    read=_huggingface_read,
    shows="nothing",
    sends_key=False,
    sends_top_n=False,
    batch=_HUGGINGFACE_BATCH,
)
