"""Open WebUI, whose hybrid search asks an external reranking engine.

Follows open-webui/open-webui, backend/open_webui/retrieval/models/external.py at ab233f82. A failure of any kind is logged, and
the search goes on without the reranker.
"""

import httpx

from tests.replays.program import (
    Program,
    ProgramFailed,
    ProgramRequest,
    Question,
    Ranking,
    json_headers,
    require_success,
)


def _request(question: Question) -> ProgramRequest:
    body = {
        "model": "ziprerank",
        "query": question.query,
        "documents": list(question.documents),
        "top_n": len(question.documents),
    }
    return ProgramRequest(path="/v1/rerank", body=body, headers=json_headers(question.key))


def _read(question: Question, response: httpx.Response) -> Ranking:
    """The scores by index, which it pairs with its documents by place: one result too many or too few shifts them all."""
    require_success(response)
    data = response.json()
    if "results" not in data:
        raise ProgramFailed("No results found in external reranking response")
    scores = [result["relevance_score"] for result in sorted(data["results"], key=lambda result: result["index"])]
    return list(enumerate(scores))


OPEN_WEBUI = Program(
    name="Open WebUI",
    source="open-webui/open-webui backend/open_webui/retrieval/models/external.py ab233f82",
    request=_request,
    read=_read,
    shows="status",
    sends_top_n=False,
)
