"""All programs that are replayed."""

from tests.replays.dify import DIFY_JINA, DIFY_OPENAI, DIFY_TEI, DIFY_XINFERENCE
from tests.replays.elasticsearch import ELASTICSEARCH
from tests.replays.flowise import FLOWISE
from tests.replays.haiku_rag import HAIKU_RAG
from tests.replays.librechat import LIBRECHAT_JINA, LIBRECHAT_VOYAGE
from tests.replays.lightrag import LIGHTRAG_ALI, LIGHTRAG_COHERE, LIGHTRAG_JINA
from tests.replays.milvus import MILVUS_TEI, MILVUS_VLLM
from tests.replays.nvidia_blueprint import NVIDIA_BLUEPRINT
from tests.replays.open_webui import OPEN_WEBUI
from tests.replays.opensearch import OPENSEARCH
from tests.replays.program import Program
from tests.replays.ragflow import (
    RAGFLOW_GPUSTACK,
    RAGFLOW_HUGGINGFACE,
    RAGFLOW_LOCALAI,
    RAGFLOW_NVIDIA,
    RAGFLOW_VLLM,
    RAGFLOW_XINFERENCE,
)
from tests.replays.weaviate import WEAVIATE

PROGRAMS: tuple[Program, ...] = (
    *(DIFY_OPENAI, DIFY_JINA, DIFY_TEI, DIFY_XINFERENCE),
    *(RAGFLOW_XINFERENCE, RAGFLOW_VLLM, RAGFLOW_LOCALAI, RAGFLOW_GPUSTACK, RAGFLOW_NVIDIA, RAGFLOW_HUGGINGFACE),
    *(OPEN_WEBUI, LIBRECHAT_JINA, LIBRECHAT_VOYAGE, FLOWISE, HAIKU_RAG, NVIDIA_BLUEPRINT),
    *(LIGHTRAG_COHERE, LIGHTRAG_JINA, LIGHTRAG_ALI),
    *(MILVUS_VLLM, MILVUS_TEI, OPENSEARCH, ELASTICSEARCH, WEAVIATE),
)
