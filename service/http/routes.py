"""The HTTP routes: each one translates between a request and a component, and knows nothing else."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from model import Reranker
from service.dialects.schemas import DocumentRerankRequest, ErrorBody, RerankInput, RerankRequest, RerankResponse
from service.dialects.submission import Parse, choose_parser
from service.documents.page_cache import PageCache
from service.errors import DeadlineExceededError, UnavailableError
from service.http.affinity import AFFINITY_HEADER, REPLICA_HEADER
from service.http.body import read_body
from service.http.document_routes import DocumentComponents, add_document_routes
from service.http.error_responses import JsonResponse, error_response
from service.http.route_registration import check_routes, serve
from service.http.route_table import INFO, LIVEZ, METRICS, MODELS, READYZ, RERANK, RERANK_DOCUMENT
from service.inference.micro_batcher import MicroBatcher
from service.inference.request_record import RequestRecord
from service.inference.rerank import RerankFlow
from service.inference.worker import InferenceWorker
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.raster.pool import Rasterizer
from service.registered.registry import DocumentRegistry
from service.settings import Settings
from service.tracing import Tracing

_REQUEST_STAGES = ("parse", "fetch", "render", "decode", "prepare", "respond")


@dataclass(slots=True, kw_only=True)
class Components:
    """What the routes are handed by `app`. The reranker arrives when it is loaded."""

    settings: Settings
    metrics: Metrics
    tracing: Tracing
    lifecycle: Lifecycle
    rasterizer: Rasterizer
    batcher: MicroBatcher
    worker: InferenceWorker
    flow: RerankFlow
    registry: DocumentRegistry
    page_cache: PageCache
    threads: Executor
    started_at: float
    reranker: Reranker | None = None


def build_router(components: Components) -> APIRouter:
    """Every route of the service. Raises: RuntimeError where they are not those of the table."""
    router = APIRouter()
    _add_rerank(router, components)
    add_document_routes(
        router,
        DocumentComponents(
            settings=components.settings,
            metrics=components.metrics,
            registry=components.registry,
            threads=components.threads,
        ),
    )
    _add_probes(router, components)
    _add_descriptions(router, components)
    check_routes(router)
    return router


def _add_rerank(router: APIRouter, components: Components) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody} for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
    }

    answers = {200: {"model": RerankResponse}, **errors}
    described = _request_body(RerankRequest, required=["query", "file"])
    of_document = _request_body(DocumentRerankRequest, required=["query"])

    @serve(router, RERANK, responses=answers, openapi_extra=described)
    async def rerank(request: Request) -> Response:
        """Rank the pages of PDFs and images by relevance to a query, best first."""
        return await _answer_rerank(request, components, path_id=None)

    @serve(router, RERANK_DOCUMENT, responses=answers, openapi_extra=of_document)
    async def rerank_document(request: Request, id: str) -> Response:
        """Rank the pages of one registered document; or, where the body names documents, those. Either way a load balancer
        sees in the path whose pages they are, and can send all such requests to the replica that has them in its caches."""
        return await _answer_rerank(request, components, path_id=id)


def _request_body(body: type[RerankInput], *, required: list[str]) -> dict[str, Any]:
    """Both request forms, and the header, for the API description."""
    form = {
        "type": "object",
        "required": required,
        "properties": {
            "query": {"type": "string"},
            "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "id": {"type": "array", "items": {"type": "string"}, "description": "labels, in the order of the files"},
            "pages": {"type": "array", "items": {"type": "string"}, "description": "such as 1-3,7; one a file"},
            "top_n": {"type": "integer"},
            "raw_scores": {"type": "boolean"},
            "return_documents": {"type": "boolean"},
            "ziprerank": {"type": "string", "description": "the ziprerank group as a JSON string"},
        },
    }
    json_schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    content = {"application/json": {"schema": json_schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}, "parameters": [_AFFINITY_PARAMETER]}


_AFFINITY_PARAMETER = {
    "name": AFFINITY_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "id of the document (or of the collection) that the pages are from; requests with the same one meet the "
    f"same replica and its caches. The answer's {REPLICA_HEADER} names it. Never changes a score.",
}


async def _answer_rerank(request: Request, components: Components, *, path_id: str | None) -> Response:
    with components.tracing.rerank() as trace:
        record = RequestRecord(trace)
        try:
            return JsonResponse(await _rerank(request, components, record, path_id=path_id))
        except ClientDisconnect:
            components.metrics.cancellations.labels(record.stage).inc()
            record.describe({"error.type": "client_disconnected", "ziprerank.stage": record.stage})
            return Response(status_code=499)  # nobody reads it; the log and the metrics do


async def _rerank(
    request: Request, components: Components, record: RequestRecord, *, path_id: str | None
) -> dict[str, Any]:
    settings = components.settings
    parse = choose_parser(
        request.headers.get("content-type", ""),
        request.headers.get("content-encoding", ""),
        max_files=settings.max_files,
        path_id=path_id,
    )
    body = await read_body(
        request,
        max_bytes=settings.max_body_bytes,
        idle_seconds=settings.body_idle_seconds,
        total_seconds=settings.body_seconds,
    )
    components.metrics.request_body_bytes.observe(sum(map(len, body)))
    try:
        return await _until_disconnect(request, _answer_in_time(request, body, parse, components, record))
    finally:
        request.state.facts.update(**record.sizes, **record.seconds)


async def _answer_in_time(
    request: Request, body: list[bytes], parse: Parse, components: Components, record: RequestRecord
) -> dict[str, Any]:
    limit = components.settings.request_seconds
    try:
        async with asyncio.timeout(limit):
            return await _answer(request, body, parse, components, record)
    except TimeoutError:
        message = f"The request took over {limit:g} s. Send fewer pages, or try again later."
        raise DeadlineExceededError("deadline_exceeded", message) from None


async def _answer(
    request: Request, body: list[bytes], parse: Parse, components: Components, record: RequestRecord
) -> dict[str, Any]:
    assert components.reranker is not None, "admission lets nothing through before the model is loaded"
    with record.observe("parse"):
        submission = await asyncio.get_running_loop().run_in_executor(components.threads, parse, body)
    answer = await components.flow.answer(
        submission,
        components.reranker,
        record,
        request_id=request.state.request_id,
        scope=request.state.cache_scope,
    )
    # The worker observes the other stages, once a batch.
    own = {stage: seconds for stage, seconds in record.seconds.items() if stage in _REQUEST_STAGES}
    components.metrics.observe_stages(own, record.exemplar)
    return answer


async def _until_disconnect(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """The result of `work`, which is cancelled when the client goes away (servers do not do that on their own).

    Raises: what `work` raises; ClientDisconnect.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Returns when the client has gone. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_probes(router: APIRouter, components: Components) -> None:
    @serve(router, LIVEZ, tags=["operation"])
    async def livez() -> Response:
        """Whether the process should live on. Never touches the device."""
        if components.worker.is_lost:
            return JsonResponse({"status": "failed"}, status_code=500)
        return JsonResponse({"status": "live"})

    @serve(router, READYZ, tags=["operation"])
    async def readyz(request: Request) -> Response:
        """Whether requests should be sent here: loaded, warmed up, not draining, not stalled."""
        obstacle = readiness_obstacle(components)
        if obstacle is None:
            return JsonResponse({"status": "ready"})
        return error_response(UnavailableError(*obstacle), request.state.request_id)

    @serve(router, METRICS, tags=["operation"])
    async def metrics(request: Request) -> Response:
        """Prometheus series, in the text format or (by the Accept header) in OpenMetrics with exemplars."""
        text, content_type = components.metrics.exposition(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)


def readiness_obstacle(components: Components) -> tuple[str, str] | None:
    """Code and message of what keeps the service from being ready, or None."""
    phase = components.lifecycle.phase
    if phase != "ready":
        code = {"loading": "not_ready", "failed": "gpu_failed"}.get(phase, "draining")
        return code, f"The service is {phase}."
    if not components.rasterizer.is_alive:
        return "not_ready", "The raster workers do not start."
    stalled = components.worker.stalled_seconds
    if stalled > components.settings.stall_seconds:
        return "not_ready", f"The current batch has been on the device for {stalled:.0f} s."
    return None


def _add_descriptions(router: APIRouter, components: Components) -> None:
    @serve(router, MODELS, tags=["description"])
    async def models() -> Response:
        """The one model, in the form of OpenAI's model list."""
        reranker = components.reranker
        settings = components.settings
        model = {
            "id": reranker.name if reranker else settings.model,
            "object": "model",
            "created": int(components.started_at),
            "owned_by": "ziprerank",
            "max_pages": settings.max_pages,
            "max_documents": settings.max_files,
        }
        return JsonResponse({"object": "list", "data": [model]})

    @serve(router, INFO, tags=["description"])
    async def info() -> Response:
        """What is running: model, device, kernels, window, limits, versions."""
        return JsonResponse(describe(components))


def describe(components: Components) -> dict[str, Any]:
    """The body of `GET /info`."""
    settings, reranker = components.settings, components.reranker
    return {
        "model": reranker.name if reranker else settings.model,
        "revision": reranker.revision if reranker else settings.revision,
        "replica": settings.replica,
        "state": components.lifecycle.phase,
        "device": reranker and str(reranker.compute.device),
        "gpu": reranker and reranker.compute.description,
        "dtype": reranker and reranker.compute.dtype_name,
        "compute_reason": reranker and reranker.compute.reason,
        "attention": reranker
        and {
            tower: {"kernel": kernel.name, "reason": kernel.reason}
            for tower, kernel in (("vision", reranker.vision_attention), ("text", reranker.text_attention))
        },
        "window": {
            name: getattr(settings, name) for name in ("window_size", "stride", "window_strategy", "keep_ratio")
        },
        "compile": reranker
        and {
            tower: {"compiled": runner.is_compiled, "reason": runner.reason, "seconds": runner.seconds}
            for tower, runner in (("vision", reranker.run_vision_block), ("text", reranker.run_decoder_layer))
        },
        "quantise": reranker and {"scheme": reranker.quantise, "reason": reranker.quantise_reason},
        "batch": reranker
        and {"max_tokens": components.batcher.budget.max_tokens, "max_patches": components.batcher.budget.max_patches},
        "memory_plan": reranker and reranker.memory and reranker.memory.describe(),
        "caches": {
            "scope": settings.cache_scope,
            "image_bytes": components.page_cache.limit_bytes,
            "vision_gpu_bytes": reranker and reranker.feature_cache.device_tier.byte_limit,
            "vision_host_bytes": reranker and reranker.feature_cache.host_tier.byte_limit,
        },
        "limits": {name: getattr(settings, name) for name in LIMITS},
        "versions": {
            package: version(package) for package in ("ziprerank", "torch", "transformers", "pymupdf", "pillow")
        },
    }


LIMITS = tuple(
    name
    for name in Settings.model_fields
    if name.startswith(("max_", "queue_", "request_", "body_", "stall_")) or name == "rasterizer_processes"
)
"""Settings that bound what a client can do; all are shown at /info."""
