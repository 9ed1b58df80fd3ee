"""Haystack's rankers for rerank APIs, which take texts; ours takes an image too."""

from answering import Case, Ranking, answer_cases


def _run(case: Case, ranker) -> Ranking:
    from haystack import Document

    documents = [
        Document(meta=document, id=str(place))
        if isinstance(document, dict)
        else Document(content=document, id=str(place))
        for place, document in enumerate(case.documents)
    ]
    ranked = ranker.run(query=case.query, documents=documents, top_k=case.top_n)["documents"]
    return [(int(document.id), document.score) for document in ranked]


def _secret(case: Case):
    from haystack.utils import Secret

    return Secret.from_token(case.key)


def cohere_ranker(case: Case) -> Ranking:
    from haystack_integrations.components.rankers.cohere import CohereRanker

    ranker = CohereRanker(model=case.model, api_key=_secret(case), api_base_url=case.root, top_k=len(case.documents))
    return _run(case, ranker)


def jina_ranker(case: Case) -> Ranking:
    from haystack_integrations.components.rankers.jina import JinaRanker

    return _run(case, JinaRanker(model=case.model, api_key=_secret(case), base_url=f"{case.root}/v1/rerank"))


def vllm_ranker(case: Case) -> Ranking:
    from haystack_integrations.components.rankers.vllm import VLLMRanker

    return _run(case, VLLMRanker(model=case.model, api_key=_secret(case), api_base_url=f"{case.root}/v1"))


def nvidia_ranker(case: Case) -> Ranking:
    """Without a model it takes the first that /v1/models lists."""
    from haystack_integrations.components.rankers.nvidia import NvidiaRanker

    ranker = NvidiaRanker(api_url=f"{case.root}/v1", api_key=_secret(case), top_k=len(case.documents))
    return _run(case, ranker)


def tei_ranker(case: Case) -> Ranking:
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    ranker = HuggingFaceTEIRanker(url=case.root, token=_secret(case), top_k=len(case.documents))
    return _run(case, ranker)


def ziprerank_ranker(case: Case) -> Ranking:
    from haystack_integrations.components.rankers.ziprerank import ZipRerankRanker

    return _run(case, ZipRerankRanker(base_url=case.root, api_key=_secret(case), top_k=None))


if __name__ == "__main__":
    answer_cases(
        {
            "CohereRanker": cohere_ranker,
            "HuggingFaceTEIRanker": tei_ranker,
            "JinaRanker": jina_ranker,
            "NvidiaRanker": nvidia_ranker,
            "VLLMRanker": vllm_ranker,
            "ZipRerankRanker": ziprerank_ranker,
        }
    )
