"""The routes of operation: probes, metrics, and the description of the process that runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from model import AttentionInfo, LayersInfo
from service.dialects.error_bodies import ErrorBody
from service.documents.page_cache import PageCache
from service.http.error_responses import JsonResponse, error_response
from service.http.openapi import OperationDescription
from service.http.operation_schemas import (
    BatchSizes,
    CacheSizes,
    CompiledLayers,
    DescribedModel,
    KernelChoice,
    ListedModel,
    Liveness,
    LivenessFailed,
    ModelLabels,
    ModelList,
    ModelType,
    NimHealth,
    Quantisation,
    ReadyStatus,
    ServiceInfo,
    ServiceVersion,
    TowerAttention,
    TowerCompilation,
    WeaviateMeta,
    WindowDefaults,
    XinferenceAuth,
)
from service.http.route_registration import serve
from service.http.route_table import (
    INFO,
    LIVEZ,
    METRICS,
    MODEL,
    MODELS,
    NIM_LIVE,
    NIM_READY,
    OTHER_READINESS,
    READYZ,
    VERSION,
    WEAVIATE_META,
    WELL_KNOWN_LIVE,
    XINFERENCE_AUTH,
)
from service.inference.micro_batcher import MicroBatcher
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.readiness import Readiness
from service.served_model import ServedModel
from service.settings import LIMITS, Settings

_METRICS_FORMATS = ("text/plain", "application/openmetrics-text")
_PACKAGES = ("ziprerank", "torch", "transformers", "pymupdf", "pillow")

_LIVE = OperationDescription(
    summary="Is the process alive?",
    text="Whether the process should be kept; 500 where its device is lost.",
    answer=Liveness,
    error=LivenessFailed | ErrorBody,
)
_READY = OperationDescription(
    summary="Is the service ready?",
    text="Whether requests should be sent here: loaded, warmed up, not draining, not stalled.",
    answer=ReadyStatus,
    statuses=[503],
)
OPERATION_DESCRIPTIONS: Mapping[str, OperationDescription] = {
    LIVEZ.name: _LIVE,
    WELL_KNOWN_LIVE.name: _LIVE,
    NIM_LIVE.name: replace(_LIVE, answer=NimHealth, error=NimHealth | ErrorBody),
    **{route.name: _READY for route in (READYZ, *OTHER_READINESS)},
    NIM_READY.name: replace(_READY, answer=NimHealth),
    METRICS.name: OperationDescription(
        summary="Prometheus metrics",
        text="In the text format or, by the Accept header, in OpenMetrics with exemplars.",
        answer_content={name: {"schema": {"type": "string"}} for name in _METRICS_FORMATS},
    ),
    MODELS.name: OperationDescription(
        summary="The loaded model", text="The one model, in the form of OpenAI's list of models.", answer=ModelList
    ),
    INFO.name: OperationDescription(
        summary="Model, device, limits and versions",
        text="The running model, device, kernels, window, limits and versions.",
        answer=ServiceInfo,
    ),
    MODEL.name: OperationDescription(
        summary="The loaded model by any id",
        text="The loaded model, whatever id is asked for, as the clients of OpenAI and Xinference read it.",
        answer=DescribedModel,
    ),
    XINFERENCE_AUTH.name: OperationDescription(
        summary="Whether requests need a key", text="The first question of Xinference's client.", answer=XinferenceAuth
    ),
    WEAVIATE_META.name: OperationDescription(
        summary="The model's name, for Weaviate",
        text="The model's name, where Weaviate's modules ask for it.",
        answer=WeaviateMeta,
    ),
    VERSION.name: OperationDescription(
        summary="The version of the service", text="The version of the service.", answer=ServiceVersion
    ),
}
"""For the API description, by the name of the route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRoutes:
    """Answers operators' requests, from memory alone."""

    settings: Settings
    lifecycle: Lifecycle
    readiness: Readiness
    metrics: Metrics
    model: ServedModel
    batcher: MicroBatcher
    page_cache: PageCache
    started_at: float  # seconds since 1970

    def add_to(self, router: APIRouter) -> None:
        serve(router, LIVEZ, self.livez)
        serve(router, WELL_KNOWN_LIVE, self.livez)
        serve(router, NIM_LIVE, self.nim_live)
        for route in (READYZ, *OTHER_READINESS):
            serve(router, route, self.readyz)
        serve(router, NIM_READY, self.nim_ready)
        serve(router, METRICS, self.show_metrics)
        serve(router, MODELS, self.models)
        serve(router, MODEL, self.describe_model)
        serve(router, XINFERENCE_AUTH, self.xinference_auth)
        serve(router, INFO, self.info)
        serve(router, WEAVIATE_META, self.weaviate_meta)
        serve(router, VERSION, self.show_version)

    async def livez(self) -> Response:
        """Whether the process should be kept. Never touches the device."""
        if self.readiness.is_device_lost:
            return JsonResponse(LivenessFailed(status="failed"), status_code=500)
        return JsonResponse(Liveness(status="live"))

    async def readyz(self, request: Request) -> Response:
        """Whether requests should be sent here: loaded, warmed up, not draining, not stalled."""
        obstacle = self.readiness.obstacle()
        if obstacle is not None:
            return error_response(obstacle, request.state.request_id)
        return JsonResponse(ReadyStatus(status="ready"))

    async def nim_live(self) -> Response:
        """`/livez` in the form of NVIDIA's NIM."""
        if self.readiness.is_device_lost:
            failed = NimHealth(object="health.response", message="Service is not live.", status="failed")
            return JsonResponse(failed, status_code=500)
        return JsonResponse(NimHealth(object="health.response", message="Service is live.", status="live"))

    async def nim_ready(self, request: Request) -> Response:
        """`/readyz` in the form of NVIDIA's NIM."""
        obstacle = self.readiness.obstacle()
        if obstacle is not None:
            return error_response(obstacle, request.state.request_id)
        return JsonResponse(NimHealth(object="health.response", message="Service is ready.", status="ready"))

    async def show_metrics(self, request: Request) -> Response:
        """Prometheus series, in the text format or (by the Accept header) in OpenMetrics with exemplars."""
        text, content_type = self.metrics.exposition(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    async def models(self) -> Response:
        """The one model, in the form of OpenAI's model list."""
        return JsonResponse(ModelList(object="list", data=[self._listed_model()]))

    async def describe_model(self, model: str) -> Response:
        """The one model under the id that was asked for."""
        listed = self._listed_model()
        return JsonResponse({**listed, "id": model, "model_type": "rerank", "model_name": listed["id"]})

    async def xinference_auth(self) -> Response:
        """Whether requests need a key."""
        return JsonResponse(XinferenceAuth(auth=self.settings.is_key_required))

    def _listed_model(self) -> ListedModel:
        info = self.model.describe()
        return ListedModel(
            id=info.name if info else self.settings.model,
            object="model",
            created=int(self.started_at),
            owned_by="ziprerank",
            max_pages=self.settings.max_pages,
            max_documents=self.settings.max_files,
        )

    async def weaviate_meta(self) -> Response:
        """The model's name, where Weaviate's modules ask for it."""
        info = self.model.describe()
        name = info.name if info else self.settings.model
        return JsonResponse(WeaviateMeta(model_name=name, version=version("ziprerank")))

    async def show_version(self) -> Response:
        """The version of the service."""
        return JsonResponse(ServiceVersion(version=version("ziprerank")))

    async def info(self) -> Response:
        """The running model, device, kernels, window, limits and versions."""
        settings, info, budget = self.settings, self.model.describe(), self.batcher.budget
        description = ServiceInfo(
            model=info.name if info else settings.model,
            model_id=info.name if info else settings.model,
            model_type=ModelType(reranker=ModelLabels(id2label={}, label2id={})),
            max_input_length=settings.max_query_characters,
            max_client_batch_size=settings.max_pages,
            version=version("ziprerank"),
            revision=info.revision if info else settings.revision,
            replica=settings.replica,
            state=self.lifecycle.phase,
            device=info.device if info else None,
            gpu=info.device_name if info else None,
            dtype=info.dtype if info else None,
            compute_reason=info.compute_reason if info else None,
            attention=TowerAttention(vision=_kernel(info.vision_attention), text=_kernel(info.text_attention))
            if info
            else None,
            window=WindowDefaults(
                window_size=settings.window_size,
                stride=settings.stride,
                window_strategy=settings.window_strategy,
                keep_ratio=settings.keep_ratio,
            ),
            compile=TowerCompilation(vision=_compiled(info.vision_layers), text=_compiled(info.text_layers))
            if info
            else None,
            quantise=Quantisation(scheme=info.quantise, reason=info.quantise_reason) if info else None,
            batch=BatchSizes(max_tokens=budget.max_tokens, max_patches=budget.max_patches) if info else None,
            memory_plan=info.memory_plan if info else None,
            caches=CacheSizes(
                scope=settings.cache_scope,
                image_bytes=self.page_cache.limit_bytes,
                vision_gpu_bytes=info.feature_cache_device_bytes if info else None,
                vision_host_bytes=info.feature_cache_host_bytes if info else None,
            ),
            limits={name: getattr(settings, name) for name in LIMITS},
            versions={package: version(package) for package in _PACKAGES},
        )
        return JsonResponse(description)


def _kernel(attention: AttentionInfo) -> KernelChoice:
    return KernelChoice(kernel=attention.kernel, reason=attention.reason)


def _compiled(layers: LayersInfo) -> CompiledLayers:
    return CompiledLayers(compiled=layers.is_compiled, reason=layers.reason, seconds=layers.compile_seconds)
