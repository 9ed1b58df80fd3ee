"""Dify: four of its model plugins, each with its own client.

Follows, in langgenius/dify-official-plugins, models/openai_api_compatible/models/rerank/rerank.py at 3e1e501c and
models/jina/models/rerank/rerank.py at d7095422; and, in copies of that repository (its own is not stored),
models/huggingface_tei/models/rerank/rerank.py with models/helper.py (zx9597446, 429164ad) and
models/xinference/models/rerank/rerank.py (ultramancode, d02b1b38), whose client asks for the model first.

Before a model can be added, each plugin ranks the texts of `CREDENTIAL_CHECK` with a threshold of 0.8.
"""

from typing import Any

import httpx

from tests.replays.program import (
    Program,
    ProgramFailed,
    ProgramRequest,
    Question,
    Ranking,
    json_headers,
    require,
    require_success,
)

_PLUGINS = "langgenius/dify-official-plugins models"
CHECK_THRESHOLD = 0.8

CREDENTIAL_CHECK = (
    "Carson City is the capital city of the American state of Nevada. At the 2010 United States Census, Carson City had a "
    "population of 55,274.",
    "The Commonwealth of the Northern Mariana Islands is a group of islands in the Pacific Ocean that are a political "
    "division controlled by the United States. Its capital is Saipan.",
    "Washington, D.C., formally the District of Columbia, is the capital city and federal district of the United States. It "
    "is located on the east bank of the Potomac River.",
)
CREDENTIAL_QUERY = "What is the capital of the United States?"


def above(ranking: Ranking, threshold: float) -> Ranking:
    """The results that a plugin keeps."""
    return [(index, score) for index, score in ranking if score >= threshold]


def picture(address: str, caption: str = "") -> dict[str, Any]:
    """A document of a plugin with vision support: an image, alone or with its caption."""
    if caption:
        return {"type": "multimodal", "text": caption, "images": [address]}
    return {"type": "image_url", "image_url": {"url": address}}


def _openai_request(question: Question) -> ProgramRequest:
    body = {
        "model": "ziprerank",
        "query": question.query,
        "documents": list(question.documents),
        "top_n": question.wanted,
        "return_documents": True,
        "score_threshold": CHECK_THRESHOLD,
    }
    return ProgramRequest(path="/v1/rerank", body=body, headers=json_headers(question.key))


def _openai_read(question: Question, response: httpx.Response) -> Ranking:
    """`document` is an object with `text`, or absent; results with an index beyond the list are left out."""
    require_success(response)
    answer = response.json()
    ranking: Ranking = []
    for item in answer.get("results", []):
        index, score = item.get("index", 0), item.get("relevance_score", 0.0)
        require(isinstance(item.get("document", {}), dict), "'str' object has no attribute 'get'")
        if index < len(question.documents):
            require(isinstance(item.get("document", {}).get("text", ""), str), "text: not a valid string")
            ranking.append((index, float(score)))
    require(isinstance(answer.get("usage", {}).get("total_tokens", 0), int), "total_tokens: not a valid integer")
    ranking.sort(key=lambda line: line[1], reverse=True)
    return ranking[: question.top_n] if question.top_n else ranking


def _jina_request(question: Question) -> ProgramRequest:
    body = {
        "model": "jina-reranker-v2-base-multilingual",
        "query": question.query,
        "documents": list(question.documents),
        "top_n": question.top_n,
        "return_documents": False,
    }
    return ProgramRequest(path="/v1/rerank", body=body, headers=json_headers(question.key))


def _jina_read(question: Question, response: httpx.Response) -> Ranking:
    require_success(response)
    results = response.json()["results"]
    for result in results:
        require(result["index"] < len(question.documents), "list index out of range")
    return [(result["index"], result["relevance_score"]) for result in results]


def _tei_request(question: Question) -> ProgramRequest:
    body = {"query": question.query, "texts": list(question.documents), "return_text": True}
    return ProgramRequest(path="/rerank", body=body, headers=json_headers(question.key))


def _tei_read(question: Question, response: httpx.Response) -> Ranking:
    """It stops at `top_n` by itself, so the best must come first; each result has its `text`."""
    require_success(response)
    ranking: Ranking = []
    for result in response.json():
        require(isinstance(result["text"], str), "text: not a valid string")
        ranking.append((result["index"], result["score"]))
        if question.top_n is not None and len(ranking) >= question.top_n:
            break
    return ranking


def read_tei_info(info: Any) -> tuple[str, int, int]:
    """Model type, longest input and largest batch, as the TEI plugin reads them from /info before it adds a model."""
    model_type = list(info.get("model_type", {}))
    require(bool(model_type), "model_type is empty")
    require(model_type[0] in ("embedding", "reranker"), f"invalid model_type: {model_type[0]}")
    return model_type[0], info.get("max_input_length", 512), info.get("max_client_batch_size", 1)


def _xinference_request(question: Question) -> ProgramRequest:
    body = {
        "model": "ziprerank",
        "documents": list(question.documents),
        "query": question.query,
        "top_n": question.top_n,
        "max_chunks_per_doc": None,
        "return_documents": True,
    }
    return ProgramRequest(path="/v1/rerank", body=body, headers=json_headers(question.key))


def _xinference_read(question: Question, response: httpx.Response) -> Ranking:
    answer = response.json()
    if response.status_code != 200:
        raise ProgramFailed(f"Failed to rerank documents, detail: {answer['detail']}")
    ranking: Ranking = []
    for result in answer["results"]:
        document = result["document"]
        require(isinstance(document if isinstance(document, str) else document["text"], str), "text: not a string")
        ranking.append((result["index"], float(result.get("relevance_score") or 0.0)))
    return ranking


DIFY_OPENAI = Program(
    name="Dify (OpenAI-API-compatible)",
    source=f"{_PLUGINS}/openai_api_compatible/models/rerank/rerank.py 3e1e501c",
    request=_openai_request,
    read=_openai_read,
    shows="status",
)
DIFY_JINA = Program(
    name="Dify (Jina)",
    source=f"{_PLUGINS}/jina/models/rerank/rerank.py d7095422",
    request=_jina_request,
    read=_jina_read,
    shows="status",
)
DIFY_TEI = Program(
    name="Dify (Text Embedding Inference)",
    source="zx9597446/dify-official-plugins models/huggingface_tei/models/rerank/rerank.py 429164ad",
    request=_tei_request,
    read=_tei_read,
    shows="status",
)
DIFY_XINFERENCE = Program(
    name="Dify (Xinference)",
    source="ultramancode/dify-official-plugins models/xinference/models/rerank/rerank.py d02b1b38",
    request=_xinference_request,
    read=_xinference_read,
    shows="message",
)
