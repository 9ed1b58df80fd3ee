"""LlamaIndex's rerank postprocessors, which take texts; ours takes an image too."""

from answering import Case, Ranking, answer_cases


def _postprocess(case: Case, postprocessor) -> Ranking:
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [
        NodeWithScore(
            node=TextNode(text="", metadata=document, id_=str(place))
            if isinstance(document, dict)
            else TextNode(text=document, id_=str(place))
        )
        for place, document in enumerate(case.documents)
    ]
    ranked = postprocessor.postprocess_nodes(nodes, query_str=case.query)
    return [(int(node.node_id), node.score) for node in ranked]


def _top_n(case: Case) -> int:
    return case.top_n or len(case.documents)


def cohere_rerank(case: Case) -> Ranking:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return _postprocess(case, CohereRerank(model=case.model, api_key=case.key, base_url=case.root, top_n=_top_n(case)))


def jina_rerank(case: Case) -> Ranking:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return _postprocess(
        case, JinaRerank(model=case.model, api_key=case.key, base_url=f"{case.root}/v1", top_n=_top_n(case))
    )


def nvidia_rerank(case: Case) -> Ranking:
    """Without a model it takes the one that /v1/models lists, and it refuses any other."""
    from llama_index.postprocessor.nvidia_rerank import NVIDIARerank

    return _postprocess(case, NVIDIARerank(api_key=case.key, base_url=f"{case.root}/v1", top_n=_top_n(case)))


def tei_rerank(case: Case) -> Ranking:
    """The token is sent as it is, so the word Bearer belongs to it."""
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    return _postprocess(
        case, TextEmbeddingInference(base_url=case.root, auth_token=f"Bearer {case.key}", top_n=_top_n(case))
    )


def tei_rerank_bare_key(case: Case) -> Ranking:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    return _postprocess(case, TextEmbeddingInference(base_url=case.root, auth_token=case.key, top_n=_top_n(case)))


def ziprerank(case: Case) -> Ranking:
    from llama_index.postprocessor.ziprerank import ZipRerank

    return _postprocess(case, ZipRerank(base_url=case.root, api_key=case.key, top_n=case.top_n))


if __name__ == "__main__":
    answer_cases(
        {
            "CohereRerank": cohere_rerank,
            "JinaRerank": jina_rerank,
            "NVIDIARerank": nvidia_rerank,
            "TextEmbeddingInference": tei_rerank,
            "TextEmbeddingInference bare key": tei_rerank_bare_key,
            "ZipRerank": ziprerank,
        }
    )
