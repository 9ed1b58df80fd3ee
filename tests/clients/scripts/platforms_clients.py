"""Rerankers of agent frameworks and RAG platforms: agno and LightRAG."""

import asyncio
import logging
import os

from answering import Case, Ranking, answer_cases


class RerankingFailed(Exception):
    """What agno logged: it hides failures, and returns the documents as they came."""


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.getMessage()} {logging.Formatter().formatException(record.exc_info)}")


def agno_cohere(case: Case) -> Ranking:
    """It has no field for the URL, which cohere's client takes from the environment."""
    os.environ["CO_API_URL"] = case.root
    from agno.knowledge.document import Document
    from agno.knowledge.reranker.cohere import CohereReranker
    from agno.utils.log import logger

    reranker = CohereReranker(model=case.model, api_key=case.key, top_n=case.top_n)
    documents = [Document(content=text, id=str(place)) for place, text in enumerate(case.documents)]
    records = _Records()
    logger.addHandler(records)
    try:
        ranked = reranker.rerank(case.query, documents)
    finally:
        logger.removeHandler(records)
    if records.texts:
        raise RerankingFailed(" ".join(records.texts))
    return [(int(document.id), document.reranking_score) for document in ranked]


def lightrag_cohere(case: Case) -> Ranking:
    from lightrag.rerank import cohere_rerank

    return _lightrag(case, cohere_rerank, "/v2/rerank")


def lightrag_jina(case: Case) -> Ranking:
    from lightrag.rerank import jina_rerank

    return _lightrag(case, jina_rerank, "/v1/rerank")


def lightrag_ali(case: Case) -> Ranking:
    from lightrag.rerank import ali_rerank

    return _lightrag(case, ali_rerank, "/services/rerank/text-rerank/text-rerank")


def _lightrag(case: Case, rerank, path: str) -> Ranking:
    call = rerank(
        case.query,
        list(case.documents),
        top_n=case.top_n,
        api_key=case.key,
        model=case.model,
        base_url=f"{case.root}{path}",
    )
    return [(result["index"], result["relevance_score"]) for result in asyncio.run(call)]


if __name__ == "__main__":
    answer_cases(
        {
            "agno CohereReranker": agno_cohere,
            "lightrag ali_rerank": lightrag_ali,
            "lightrag cohere_rerank": lightrag_cohere,
            "lightrag jina_rerank": lightrag_jina,
        }
    )
