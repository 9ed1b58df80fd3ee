"""Weaviate's module reranker-transformers.

Follows weaviate/weaviate, modules/reranker-transformers: clients/ranker.go and module.go at 1e250816, clients/startup.go at
594da1b6, clients/ranker_meta.go at 2d7d85dd, and additional/rank/rank_result.go at 52c04f01. It names no content type and sends
no key; `property` is always empty. Scores are taken by place. It waits for /.well-known/ready and asks /meta.
"""

import httpx

from tests.replays.program import Program, ProgramFailed, ProgramRequest, Question, Ranking, require

CHUNK = 32
"""Strings in one request; longer lists are sent in several, whose scores are put one behind the other."""


def _request(question: Question) -> ProgramRequest:
    body = {"query": question.query, "documents": list(question.documents), "property": ""}
    return ProgramRequest(path="/rerank", body=body, headers={})


def _read(question: Question, response: httpx.Response) -> Ranking:
    """The body is parsed before the status is looked at, so that `error` must be a string."""
    body = response.json()
    for name, kind in (("query", str), ("scores", list), ("property", str), ("error", str)):
        require(isinstance(body.get(name, kind()), kind), f"unmarshal response body. Got: {response.text}")
    if response.status_code != 200:
        error = body.get("error", "")
        raise ProgramFailed(f"fail with status {response.status_code}" + (f": {error}" if error else ""))
    scores = body.get("scores", [])
    require(len(scores) >= len(question.documents), "index out of range")
    for score in scores:
        require(isinstance(score["document"], str), "unmarshal response body")
    return [(place, float(score["score"])) for place, score in enumerate(scores)]


WEAVIATE = Program(
    name="Weaviate",
    source="weaviate/weaviate modules/reranker-transformers/clients/ranker.go 1e250816",
    request=_request,
    read=_read,
    shows="message",
    sends_key=False,
    sends_top_n=False,
    batch=CHUNK,
)
