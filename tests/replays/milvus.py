"""Milvus: its rerank functions with the providers vllm and tei, as docs/clients.md sets them up.

Follows milvus-io/milvus, internal/util/function: rerank/vllm_rerank_provider.go at 09504f1f, rerank/tei_rerank_provider.go at
1bf3af6b with `rerankScoresByIndex` of its package, models/vllm/vllm_client.go at 3ae9ca06, models/tei/tei.go at 059bfd6a and
models/common.go at 78e4f01f. The path of the endpoint is replaced. Every status but 200 is an error with the whole body, after
three attempts. `max_client_batch_size` is the name that the code reads.
"""

import ast
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.documentation import block
from tests.replays.program import (
    Program,
    ProgramFailed,
    ProgramRequest,
    Question,
    Ranking,
    filled_by_index,
    json_headers,
    require,
)

_DEFAULT_BATCH = 32


def function_params(recipe: str) -> dict[str, Any]:
    """The `params` of the function in a block of docs/clients.md."""
    [params] = [
        keyword.value
        for node in ast.walk(ast.parse(block(f"replay {recipe}").text))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "params"
    ]
    assert isinstance(params, ast.Dict)
    literals = zip(params.keys, params.values, strict=True)
    return {
        ast.literal_eval(key): ast.literal_eval(value) if isinstance(value, ast.Constant) else ast.unparse(value)
        for key, value in literals
        if key is not None
    }


def _batch(recipe: str) -> int:
    return int(function_params(recipe).get("max_client_batch_size", _DEFAULT_BATCH))


def _path(recipe: str) -> str:
    endpoint = urlsplit(function_params(recipe)["endpoint"])
    assert endpoint.scheme in ("http", "https") and endpoint.netloc
    return "/rerank"


def _vllm_request(question: Question) -> ProgramRequest:
    body = {"query": question.query, "documents": list(question.documents)}
    return ProgramRequest(path=_path("milvus vllm"), body=body, headers=json_headers(question.key))


def _vllm_read(question: Question, response: httpx.Response) -> Ranking:
    """The scores in the order of their indexes, by place."""
    results = sorted(_body(response)["results"], key=lambda result: result["index"])
    require(len(results) <= len(question.documents), "index out of range")
    scores = [result["relevance_score"] for result in results]
    return list(enumerate(scores + [0.0] * (len(question.documents) - len(scores))))


def _tei_request(question: Question) -> ProgramRequest:
    params = function_params("milvus tei")
    body: dict[str, Any] = {"query": question.query, "texts": list(question.documents)}
    if "truncate" in params:
        body["truncate"] = params["truncate"] in ("true", True)
    if "truncation_direction" in params:
        body["truncation_direction"] = params["truncation_direction"]
    return ProgramRequest(path=_path("milvus tei"), body=body, headers=json_headers(question.key))


def _tei_read(question: Question, response: httpx.Response) -> Ranking:
    """Each score at its index; an answer that does not have each document exactly once is an error."""
    body, count = _body(response), len(question.documents)
    require(len(body) == count, f"the number of docs and scores does not match docs:[{count}], scores:[{len(body)}]")
    require(len({line["index"] for line in body}) == count, "an invalid or duplicated result index")
    return filled_by_index(count, body, "score")


def _body(response: httpx.Response) -> Any:
    if response.status_code != 200:
        status = f"{response.status_code} {response.reason_phrase}"
        raise ProgramFailed(f"Call service failed, errs:[{status}, {response.text}]")
    return response.json()


MILVUS_VLLM = Program(
    name="Milvus (vllm)",
    source="milvus-io/milvus internal/util/function/rerank/vllm_rerank_provider.go 09504f1f",
    request=_vllm_request,
    read=_vllm_read,
    shows="message",
    sends_top_n=False,
    batch=_DEFAULT_BATCH,
)
MILVUS_TEI = Program(
    name="Milvus (tei)",
    source="milvus-io/milvus internal/util/function/rerank/tei_rerank_provider.go 1bf3af6b",
    request=_tei_request,
    read=_tei_read,
    shows="message",
    sends_top_n=False,
    batch=_DEFAULT_BATCH,
)
