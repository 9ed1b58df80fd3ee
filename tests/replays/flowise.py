"""Flowise's Azure Rerank Retriever, whose credential has the URL and the key.

Follows FlowiseAI/Flowise, packages/components/nodes/retrievers/AzureRerankRetriever/AzureRerank.ts at 94593f45. The key is in
the header `api-key`. After a failure of any kind the node hands on its documents as they came, and says nothing.
"""

import httpx

from tests.replays.program import Program, ProgramFailed, ProgramRequest, Question, Ranking, require

_TOP_K = 4


def _request(question: Question) -> ProgramRequest:
    body = {
        "model": "rerank-v3.5",
        "top_n": _TOP_K if question.top_n is None else question.top_n,
        "max_chunks_per_doc": 10,
        "query": question.query,
        "return_documents": False,
        "documents": list(question.documents),
    }
    headers = {"api-key": question.key or "", "Content-Type": "application/json", "Accept": "application/json"}
    return ProgramRequest(path="/providers/cohere/v2/rerank", body=body, headers=headers)


def _read(question: Question, response: httpx.Response) -> Ranking:
    if response.is_error:
        raise ProgramFailed("")
    ranking: Ranking = []
    for result in response.json()["results"]:
        require(0 <= result["index"] < len(question.documents), "a document without metadata")
        ranking.append((result["index"], result["relevance_score"]))
    return ranking[: _TOP_K if question.top_n is None else question.top_n]


FLOWISE = Program(
    name="Flowise",
    source="FlowiseAI/Flowise packages/components/nodes/retrievers/AzureRerankRetriever/AzureRerank.ts 94593f45",
    request=_request,
    read=_read,
    shows="nothing",
)
