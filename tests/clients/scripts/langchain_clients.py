"""LangChain's document compressors for rerank APIs. Their documents are texts; NVIDIARerank and ours also take an image."""

from answering import Case, Ranking, answer_cases


def _documents(case: Case) -> list:
    from langchain_core.documents import Document

    return [
        Document(page_content="", metadata={"place": place, "image": document["image"]})
        if isinstance(document, dict)
        else Document(page_content=document, metadata={"place": place})
        for place, document in enumerate(case.documents)
    ]


def _compress(case: Case, compressor) -> Ranking:
    compressed = compressor.compress_documents(_documents(case), case.query)
    return [(document.metadata["place"], float(document.metadata["relevance_score"])) for document in compressed]


def cohere_rerank(case: Case) -> Ranking:
    from langchain_cohere import CohereRerank

    return _compress(
        case, CohereRerank(model=case.model, cohere_api_key=case.key, base_url=case.root, top_n=case.top_n)
    )


def jina_rerank(case: Case) -> Ranking:
    """The URL is a constant of the module."""
    from langchain_community.document_compressors import JinaRerank, jina_rerank

    jina_rerank.JINA_API_URL = f"{case.root}/v1/rerank"
    return _compress(case, JinaRerank(model=case.model, jina_api_key=case.key, top_n=case.top_n))


def infinity_rerank(case: Case) -> Ranking:
    from infinity_client import Client
    from langchain_community.document_compressors import InfinityRerank

    headers = {"Authorization": f"Bearer {case.key}"}
    client = Client(base_url=case.root, headers=headers, raise_on_unexpected_status=True)
    return _compress(case, InfinityRerank(client=client, model=case.model, top_n=case.top_n))


def nvidia_rerank(case: Case) -> Ranking:
    from langchain_nvidia_ai_endpoints import NVIDIARerank

    ranker = NVIDIARerank(
        model=case.model, base_url=f"{case.root}/v1", api_key=case.key, top_n=case.top_n or len(case.documents)
    )
    return _compress(case, ranker)


def voyageai_rerank(case: Case) -> Ranking:
    from langchain_voyageai import VoyageAIRerank

    ranker = VoyageAIRerank(model=case.model, api_key=case.key, base_url=f"{case.root}/v1", top_k=case.top_n)
    return _compress(case, ranker)


def ziprerank_compressor(case: Case) -> Ranking:
    from langchain_ziprerank import ZipRerankCompressor

    return _compress(case, ZipRerankCompressor(base_url=case.root, api_key=case.key, top_n=case.top_n))


if __name__ == "__main__":
    answer_cases(
        {
            "CohereRerank": cohere_rerank,
            "InfinityRerank": infinity_rerank,
            "JinaRerank": jina_rerank,
            "NVIDIARerank": nvidia_rerank,
            "VoyageAIRerank": voyageai_rerank,
            "ZipRerankCompressor": ziprerank_compressor,
        }
    )
