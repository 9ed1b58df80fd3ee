"""The routes of operation: probes, metrics, and the description of the process that runs."""

from dataclasses import dataclass
from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.documents.page_cache import PageCache
from service.http.error_responses import JsonResponse, error_response
from service.http.route_registration import serve
from service.http.route_table import (
    INFO,
    LIVEZ,
    METRICS,
    MODELS,
    NIM_LIVE,
    NIM_READY,
    OTHER_READINESS,
    READYZ,
    VERSION,
    WEAVIATE_META,
    WELL_KNOWN_LIVE,
)
from service.inference.micro_batcher import MicroBatcher
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.readiness import Readiness
from service.served_model import ServedModel
from service.settings import LIMITS, Settings

_PACKAGES = ("ziprerank", "torch", "transformers", "pymupdf", "pillow")


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
        serve(router, LIVEZ, self.livez, tags=["operation"])
        serve(router, READYZ, self.readyz, tags=["operation"])
        for route in OTHER_READINESS:
            serve(router, route, self.readyz, tags=["operation"])
        serve(router, WELL_KNOWN_LIVE, self.livez, tags=["operation"])
        serve(router, NIM_LIVE, self.nim_live, tags=["operation"])
        serve(router, NIM_READY, self.nim_ready, tags=["operation"])
        serve(router, METRICS, self.show_metrics, name="metrics", tags=["operation"])
        serve(router, MODELS, self.models, tags=["description"])
        serve(router, INFO, self.info, tags=["description"])
        serve(router, WEAVIATE_META, self.weaviate_meta, tags=["description"])
        serve(router, VERSION, self.show_version, tags=["description"])

    async def livez(self) -> Response:
        """Whether the process should be kept. Never touches the device."""
        if self.readiness.is_device_lost:
            return JsonResponse({"status": "failed"}, status_code=500)
        return JsonResponse({"status": "live"})

    async def readyz(self, request: Request) -> Response:
        """Whether requests should be sent here: loaded, warmed up, not draining, not stalled."""
        obstacle = self.readiness.obstacle()
        if obstacle is not None:
            return error_response(obstacle, request.state.request_id)
        return JsonResponse({"status": "ready"})

    async def nim_live(self) -> Response:
        """`/livez` in the form of NVIDIA's NIM."""
        if self.readiness.is_device_lost:
            return JsonResponse(_nim_health("Service is not live.", "failed"), status_code=500)
        return JsonResponse(_nim_health("Service is live.", "live"))

    async def nim_ready(self, request: Request) -> Response:
        """`/readyz` in the form of NVIDIA's NIM."""
        obstacle = self.readiness.obstacle()
        if obstacle is not None:
            return error_response(obstacle, request.state.request_id)
        return JsonResponse(_nim_health("Service is ready.", "ready"))

    async def show_metrics(self, request: Request) -> Response:
        """Prometheus series, in the text format or (by the Accept header) in OpenMetrics with exemplars."""
        text, content_type = self.metrics.exposition(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    async def models(self) -> Response:
        """The one model, in the form of OpenAI's model list."""
        info = self.model.describe()
        model = {
            "id": info.name if info else self.settings.model,
            "object": "model",
            "created": int(self.started_at),
            "owned_by": "ziprerank",
            "max_pages": self.settings.max_pages,
            "max_documents": self.settings.max_files,
        }
        return JsonResponse({"object": "list", "data": [model]})

    async def weaviate_meta(self) -> Response:
        """The model's name, where Weaviate's modules ask for it."""
        info = self.model.describe()
        return JsonResponse({"model_name": info.name if info else self.settings.model, "version": version("ziprerank")})

    async def show_version(self) -> Response:
        """The version of the service."""
        return JsonResponse({"version": version("ziprerank")})

    async def info(self) -> Response:
        """The running model, device, kernels, window, limits and versions."""
        settings, info, budget = self.settings, self.model.describe(), self.batcher.budget
        description = {
            "model": info.name if info else settings.model,
            "model_id": info.name if info else settings.model,
            "model_type": {"reranker": {"id2label": {}, "label2id": {}}},
            "max_input_length": settings.max_query_characters,
            "max_client_batch_size": settings.max_pages,
            "version": version("ziprerank"),
            "revision": info.revision if info else settings.revision,
            "replica": settings.replica,
            "state": self.lifecycle.phase,
            "device": info and info.device,
            "gpu": info and info.device_name,
            "dtype": info and info.dtype,
            "compute_reason": info and info.compute_reason,
            "attention": info
            and {
                tower: {"kernel": attention.kernel, "reason": attention.reason}
                for tower, attention in (("vision", info.vision_attention), ("text", info.text_attention))
            },
            "window": {
                name: getattr(settings, name) for name in ("window_size", "stride", "window_strategy", "keep_ratio")
            },
            "compile": info
            and {
                tower: {"compiled": layers.is_compiled, "reason": layers.reason, "seconds": layers.compile_seconds}
                for tower, layers in (("vision", info.vision_layers), ("text", info.text_layers))
            },
            "quantise": info and {"scheme": info.quantise, "reason": info.quantise_reason},
            "batch": info and {"max_tokens": budget.max_tokens, "max_patches": budget.max_patches},
            "memory_plan": info and info.memory_plan,
            "caches": {
                "scope": settings.cache_scope,
                "image_bytes": self.page_cache.limit_bytes,
                "vision_gpu_bytes": info and info.feature_cache_device_bytes,
                "vision_host_bytes": info and info.feature_cache_host_bytes,
            },
            "limits": {name: getattr(settings, name) for name in LIMITS},
            "versions": {package: version(package) for package in _PACKAGES},
        }
        return JsonResponse(description)


def _nim_health(message: str, status: str) -> dict[str, str]:
    return {"object": "health.response", "message": message, "status": status}
