"""JSON bodies of the routes of operation."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from service.lifecycle import Phase


class Liveness(TypedDict):
    status: Literal["live"]


class LivenessFailed(TypedDict):
    """The device is lost; the process should be replaced."""

    status: Literal["failed"]


class ReadyStatus(TypedDict):
    status: Literal["ready"]


class NimHealth(TypedDict):
    """The answer of the probes of NVIDIA's NIM."""

    object: Literal["health.response"]
    message: str
    status: Literal["live", "ready", "failed"]


class ListedModel(TypedDict):
    id: str
    object: Literal["model"]
    created: Annotated[int, Field(description="when the process started, in seconds since 1970")]
    owned_by: str
    max_pages: Annotated[int, Field(description="pages in one request")]
    max_documents: Annotated[int, Field(description="uploads in one request")]


class ModelList(TypedDict):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[ListedModel]


class DescribedModel(ListedModel):
    """The model under any id, because the loaded one answers whatever is asked for."""

    model_type: Annotated[Literal["rerank"], Field(description="read by the client of Xinference")]
    model_name: Annotated[str, Field(description="the loaded model")]


class XinferenceAuth(TypedDict):
    auth: Annotated[bool, Field(description="whether requests need a key")]


class WeaviateMeta(TypedDict):
    model_name: str
    version: str


class ServiceVersion(TypedDict):
    version: str


class ModelLabels(TypedDict):
    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(TypedDict):
    """As text-embeddings-inference describes a reranker."""

    reranker: ModelLabels


class KernelChoice(TypedDict):
    kernel: str
    reason: str


class TowerAttention(TypedDict):
    vision: KernelChoice
    text: KernelChoice


class CompiledLayers(TypedDict):
    compiled: bool
    reason: str
    seconds: Annotated[float | None, Field(description="of the first compiled call; null before it")]


class TowerCompilation(TypedDict):
    vision: CompiledLayers
    text: CompiledLayers


class Quantisation(TypedDict):
    scheme: str
    reason: str


class WindowDefaults(TypedDict):
    window_size: int
    stride: int
    window_strategy: str
    keep_ratio: float


class BatchSizes(TypedDict):
    max_tokens: Annotated[int, Field(description="language-model tokens after pruning")]
    max_patches: Annotated[int, Field(description="patches of pages that must be encoded")]


class CacheSizes(TypedDict):
    scope: Literal["shared", "per_key"]
    image_bytes: int
    vision_gpu_bytes: int | None
    vision_host_bytes: int | None


class ServiceInfo(TypedDict):
    """The fields about the device and its kernels are null before the model is loaded."""

    model: str
    model_id: str
    model_type: ModelType
    max_input_length: Annotated[int, Field(description="characters of a query")]
    max_client_batch_size: Annotated[int, Field(description="pages in one request")]
    version: str
    revision: str | None
    replica: str
    state: Phase
    device: str | None
    gpu: Annotated[str | None, Field(description="name of the card, or cpu")]
    dtype: str | None
    compute_reason: Annotated[str | None, Field(description="why this device and dtype")]
    attention: TowerAttention | None
    window: WindowDefaults
    compile: TowerCompilation | None
    quantise: Quantisation | None
    batch: BatchSizes | None
    memory_plan: Annotated[str | None, Field(description="one sentence with the figures; null on a CPU")]
    caches: CacheSizes
    limits: Annotated[dict[str, int | float | None], Field(description="settings that bound a request, by name")]
    versions: Annotated[dict[str, str], Field(description="of packages")]
