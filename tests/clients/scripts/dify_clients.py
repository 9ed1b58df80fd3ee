"""Dify's plugin SDK, whose rerank model every openai_compatible plugin uses."""

import dify_plugin  # first: it patches the standard library's sockets
from answering import Case, Ranking, answer_cases


class _RerankModel(dify_plugin.OAICompatRerankModel):
    """A plugin's class, which adds nothing to the SDK's. Messages name the provider, which is a part of the module's name."""

    __module__ = "models.rerank.rerank"


def oai_compat_rerank_model(case: Case) -> Ranking:
    credentials = {"endpoint_url": f"{case.root}/v1", "api_key": case.key}
    model = _RerankModel([])
    model.validate_credentials(case.model, credentials)
    answer = model.invoke(case.model, credentials, case.query, list(case.documents), top_n=case.top_n)
    return [(document.index, document.score) for document in answer.docs]


if __name__ == "__main__":
    answer_cases({"OAICompatRerankModel": oai_compat_rerank_model})
