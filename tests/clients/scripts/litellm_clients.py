"""LiteLLM, a provider each: the URL that `api_base` must be differs."""

from answering import Case, Ranking, answer_cases


def _rerank(case: Case, provider: str, api_base: str, *, model: str | None = None) -> Ranking:
    import litellm

    answer = litellm.rerank(
        model=f"{provider}/{model or case.model}",
        query=case.query,
        documents=case.documents,
        top_n=case.top_n,
        api_base=api_base,
        api_key=case.key,
    )
    return [(result["index"], result["relevance_score"]) for result in answer.results]


def cohere(case: Case) -> Ranking:
    return _rerank(case, "cohere", case.root)


def jina_ai(case: Case) -> Ranking:
    return _rerank(case, "jina_ai", case.root)


def infinity(case: Case) -> Ranking:
    return _rerank(case, "infinity", case.root)


def huggingface(case: Case) -> Ranking:
    return _rerank(case, "huggingface", case.root)


def hosted_vllm(case: Case) -> Ranking:
    return _rerank(case, "hosted_vllm", case.root)


def hosted_vllm_v1(case: Case) -> Ranking:
    return _rerank(case, "hosted_vllm", f"{case.root}/v1")


def nvidia_nim(case: Case) -> Ranking:
    """Without `ranking/` before the model's name, its path is /v1/retrieval/MODEL/reranking."""
    return _rerank(case, "nvidia_nim", case.root)


def nvidia_nim_ranking(case: Case) -> Ranking:
    return _rerank(case, "nvidia_nim", case.root, model=f"ranking/{case.model}")


def voyage(case: Case) -> Ranking:
    return _rerank(case, "voyage", f"{case.root}/v1")


def together_ai(case: Case) -> Ranking:
    return _rerank(case, "together_ai", f"{case.root}/v1")


def azure_ai(case: Case) -> Ranking:
    return _rerank(case, "azure_ai", case.root)


def azure_ai_cohere(case: Case) -> Ranking:
    return _rerank(case, "azure_ai", f"{case.root}/providers/cohere/v2")


if __name__ == "__main__":
    answer_cases(
        {
            "cohere": cohere,
            "jina_ai": jina_ai,
            "infinity": infinity,
            "huggingface": huggingface,
            "hosted_vllm": hosted_vllm,
            "hosted_vllm /v1": hosted_vllm_v1,
            "nvidia_nim": nvidia_nim,
            "nvidia_nim ranking": nvidia_nim_ranking,
            "voyage": voyage,
            "together_ai": together_ai,
            "azure_ai": azure_ai,
            "azure_ai /providers/cohere/v2": azure_ai_cohere,
        }
    )
