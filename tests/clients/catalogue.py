"""The clients of all families, and where one differs from the others."""

from dataclasses import dataclass
from typing import Literal

ImageForm = Literal["string", "object"]
"""string: a data URI in place of a text; object: {"image": data URI}, which scripts send in the way of the client's API."""

Shown = Literal["message", "status", "nothing"]
"""What an exception of the client shows of a refusal: the service's message, the HTTP status alone, or neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client, as its family's script knows it."""

    family: str
    name: str
    images: tuple[ImageForm, ...] = ("string",)
    shows: Shown = "message"
    shows_422: Shown | None = None  # where it differs for a document that cannot be read
    requests: int = 1  # that it sends to rank one list


def _clients(family: str, *names: str, images: tuple[ImageForm, ...] = ("string",)) -> list[Client]:
    return [Client(family=family, name=name, images=images) for name in names]


_BOTH: tuple[ImageForm, ...] = ("string", "object")

CLIENTS: tuple[Client, ...] = (
    *_clients(
        "sdk",
        *("cohere.Client", "cohere.ClientV2", "cohere.AsyncClient", "cohere.AsyncClientV2"),
        *("together.Together", "xinference_client"),
        images=_BOTH,
    ),
    *_clients("sdk", "infinity_client", "voyageai.Client", "voyageai.AsyncClient"),
    *(  # it takes the answer's fields without a look at the status
        Client(family="sdk", name=f"rerankers {provider}", shows="nothing")
        for provider in ("cohere", "jina", "voyage", "text-embeddings-inference")
    ),
    *_clients(
        "litellm",
        *("cohere", "jina_ai", "infinity", "huggingface", "hosted_vllm", "hosted_vllm /v1"),
        *("nvidia_nim", "nvidia_nim ranking", "voyage", "together_ai", "azure_ai", "azure_ai /providers/cohere/v2"),
        images=_BOTH,
    ),
    *_clients("langchain", "CohereRerank", "JinaRerank", "VoyageAIRerank"),
    Client(family="langchain", name="InfinityRerank", shows_422="nothing"),  # it takes the parsed error for results
    *_clients("langchain", "NVIDIARerank", "ZipRerankCompressor", images=_BOTH),
    *_clients("llama_index", "CohereRerank", "JinaRerank"),
    *_clients("llama_index", "ZipRerank", images=_BOTH),
    Client(family="llama_index", name="NVIDIARerank", shows="status"),
    Client(family="llama_index", name="TextEmbeddingInference", shows="nothing"),  # it compares the answer's length
    Client(family="llama_index", name="TextEmbeddingInference bare key", shows="nothing"),
    *_clients("haystack", "CohereRanker", "HuggingFaceTEIRanker", "JinaRanker", "NvidiaRanker", "VLLMRanker"),
    *_clients("haystack", "ZipRerankRanker", images=_BOTH),
    *_clients(
        "platforms", "agno CohereReranker", "lightrag ali_rerank", "lightrag cohere_rerank", "lightrag jina_rerank"
    ),
    Client(family="dify", name="OAICompatRerankModel", shows="status", requests=2),  # one checks the credentials
    *_clients("node", "cohere-ai CohereClient", "ai @ai-sdk/cohere", "ai @ai-sdk/togetherai", images=_BOTH),
    *_clients("node", "cohere-ai CohereClientV2", "@langchain/cohere CohereRerank"),
)
