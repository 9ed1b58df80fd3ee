"""The small clients of single APIs: cohere, infinity, rerankers, together, voyageai, xinference."""

import asyncio

from answering import Case, Ranking, answer_cases


def cohere_client(case: Case) -> Ranking:
    import cohere

    client = cohere.Client(api_key=case.key, base_url=case.root)
    answer = client.rerank(model=case.model, query=case.query, documents=case.documents, top_n=case.top_n)
    return [(result.index, result.relevance_score) for result in answer.results]


def cohere_client_v2(case: Case) -> Ranking:
    import cohere

    client = cohere.ClientV2(api_key=case.key, base_url=case.root)
    answer = client.rerank(model=case.model, query=case.query, documents=case.documents, top_n=case.top_n)
    return [(result.index, result.relevance_score) for result in answer.results]


def cohere_async_client(case: Case) -> Ranking:
    import cohere

    async def rank() -> Ranking:
        client = cohere.AsyncClient(api_key=case.key, base_url=case.root)
        answer = await client.rerank(model=case.model, query=case.query, documents=case.documents, top_n=case.top_n)
        return [(result.index, result.relevance_score) for result in answer.results]

    return asyncio.run(rank())


def cohere_async_client_v2(case: Case) -> Ranking:
    import cohere

    async def rank() -> Ranking:
        client = cohere.AsyncClientV2(api_key=case.key, base_url=case.root)
        answer = await client.rerank(model=case.model, query=case.query, documents=case.documents, top_n=case.top_n)
        return [(result.index, result.relevance_score) for result in answer.results]

    return asyncio.run(rank())


def infinity_client(case: Case) -> Ranking:
    """It returns the body of a 422, and of other refusals None unless `raise_on_unexpected_status` is set."""
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import rerank
    from infinity_client.models import HTTPValidationError, RerankInput

    client = AuthenticatedClient(base_url=case.root, token=case.key, raise_on_unexpected_status=True)
    request = RerankInput(query=case.query, documents=case.documents)
    if case.top_n is not None:
        request.top_n = case.top_n
    answer = rerank.sync(client=client, body=request)
    if isinstance(answer, HTTPValidationError):
        raise ValueError(", ".join(fault.msg for fault in answer.detail))
    return [(result.index, result.relevance_score) for result in answer.results]


def _rerankers(case: Case, provider: str, path: str) -> Ranking:
    from rerankers import Reranker

    ranker = Reranker(case.model, model_type=provider, api_key=case.key, url=f"{case.root}{path}", verbose=0)
    answer = ranker.rank(query=case.query, docs=case.documents, doc_ids=list(range(len(case.documents))))
    results = answer.results if case.top_n is None else answer.top_k(case.top_n)
    return [(result.doc_id, result.score) for result in results]


def rerankers_cohere(case: Case) -> Ranking:
    return _rerankers(case, "cohere", "/v1/rerank")


def rerankers_jina(case: Case) -> Ranking:
    return _rerankers(case, "jina", "/v1/rerank")


def rerankers_voyage(case: Case) -> Ranking:
    return _rerankers(case, "voyage", "/v1/rerank")


def rerankers_tei(case: Case) -> Ranking:
    return _rerankers(case, "text-embeddings-inference", "/rerank")


def together_client(case: Case) -> Ranking:
    from together import Together, omit

    client = Together(api_key=case.key, base_url=case.root)
    answer = client.rerank.create(
        model=case.model,
        query=case.query,
        documents=case.documents,
        top_n=omit if case.top_n is None else case.top_n,
        return_documents=True,
    )
    return [(result.index, result.relevance_score) for result in answer.results]


def voyageai_client(case: Case) -> Ranking:
    import voyageai

    client = voyageai.Client(api_key=case.key, base_url=f"{case.root}/v1")
    answer = client.rerank(case.query, case.documents, model=case.model, top_k=case.top_n)
    return [(result.index, result.relevance_score) for result in answer.results]


def voyageai_async_client(case: Case) -> Ranking:
    import voyageai

    async def rank() -> Ranking:
        client = voyageai.AsyncClient(api_key=case.key, base_url=f"{case.root}/v1")
        answer = await client.rerank(case.query, case.documents, model=case.model, top_k=case.top_n)
        return [(result.index, result.relevance_score) for result in answer.results]

    return asyncio.run(rank())


def xinference_client(case: Case) -> Ranking:
    from xinference_client import RESTfulClient

    model = RESTfulClient(case.root, api_key=case.key).get_model(case.model)
    answer = model.rerank(case.documents, case.query, top_n=case.top_n, return_documents=True)
    return [(result["index"], result["relevance_score"]) for result in answer["results"]]


if __name__ == "__main__":
    answer_cases(
        {
            "cohere.Client": cohere_client,
            "cohere.ClientV2": cohere_client_v2,
            "cohere.AsyncClient": cohere_async_client,
            "cohere.AsyncClientV2": cohere_async_client_v2,
            "infinity_client": infinity_client,
            "rerankers cohere": rerankers_cohere,
            "rerankers jina": rerankers_jina,
            "rerankers voyage": rerankers_voyage,
            "rerankers text-embeddings-inference": rerankers_tei,
            "together.Together": together_client,
            "voyageai.Client": voyageai_client,
            "voyageai.AsyncClient": voyageai_async_client,
            "xinference_client": xinference_client,
        }
    )
