"""Builds the application, wires its components, starts and closes them. Nobody else builds objects."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from threading import Thread
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.responses import Response

from model import DEFAULT_BATCH_LIMITS, BatchLimits, ModelInfo, RankingModel, Reranker, RerankerConfig, RerankerError
from service.dialects.schemas import DocumentRerankRequest, RerankRequest
from service.documents.loader import PageLoader
from service.documents.page_cache import CacheCounts, PageCache
from service.errors import ServiceError, UnavailableError
from service.http.admission import Access, AccessLimits, scope_of_key, shared_scope
from service.http.error_responses import error_response, plain_error_response
from service.http.route_table import is_traced
from service.http.routes import Components, build_router
from service.inference.micro_batcher import BatchBudget, MicroBatcher
from service.inference.rerank import RerankFlow
from service.inference.worker import InferenceWorker
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.raster.pool import Rasterizer, RasterLimits
from service.registered.files import DocumentFiles
from service.registered.processor import PAGES_AT_ONCE, DocumentProcessor
from service.registered.registry import DocumentRegistry
from service.registered.store import DocumentStore
from service.settings import Settings
from service.tracing import Tracing

EXIT_LOAD_FAILED = 1
EXIT_DEVICE_LOST = 70

_DEFAULT_PAGE_CACHE_BYTES = 1 << 30
_FEATURE_BYTES_PER_PIXEL_BYTE = 10  # of an A4 page in bfloat16: 23 MB for 2.2 MB
_CACHE_SCOPES = {"shared": shared_scope, "per_key": scope_of_key}
_DOCUMENT_THREADS = 4  # they wait for disks and object stores

LoadModel = Callable[[Settings], RankingModel]

logger = logging.getLogger(__name__)


class StartError(Exception):
    """The settings and the loaded checkpoint do not fit together."""


def load_reranker(settings: Settings) -> Reranker:
    """Load the checkpoint that the settings name. Raises: RerankerError."""
    return Reranker.from_checkpoint(settings.model, reranker_config(settings), revision=settings.revision)


def reranker_config(settings: Settings) -> RerankerConfig:
    """What the settings say about the model."""
    return RerankerConfig(**{field.name: getattr(settings, field.name) for field in fields(RerankerConfig)})


def raster_limits(settings: Settings) -> RasterLimits:
    """What the settings say about the raster workers."""
    return RasterLimits(processes=settings.rasterizer_processes, max_image_pixels=settings.max_image_pixels)


def build_app(
    settings: Settings,
    *,
    lifecycle: Lifecycle | None = None,
    load: LoadModel = load_reranker,
    stop: Callable[[int], None] = lambda exit_code: None,
) -> FastAPI:
    """The application. `stop(exit_code)` is called when it can not go on: nothing to serve, or the device is lost."""
    components = _build_components(settings, lifecycle or Lifecycle(), stop)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _build_routes(app)
        loading = await _start(components, load, stop)
        app.state.loading = loading
        yield
        await _close(components, loading)

    app = FastAPI(
        title="ZipRerank",
        version=version("ziprerank"),
        telemetry=cast(TelemetryConfig, components.tracing.telemetry()),
        description="Ranks the pages of documents by relevance to a query. Scores compare within one answer only.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.components = components  # for who runs the application other than by `server`
    app.include_router(build_router(components))
    _handle_errors(app, components.metrics)
    _describe_request(app)
    app.add_middleware(
        Access,
        limits=AccessLimits(
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
            max_body_bytes=settings.max_body_bytes,
            max_concurrent_requests=settings.max_concurrent_requests,
            max_in_flight_bytes=settings.max_in_flight_bytes,
        ),
        lifecycle=components.lifecycle,
        metrics=components.metrics,
        tracing=components.tracing,
        replica=settings.replica,
        cache_scope=_CACHE_SCOPES[settings.cache_scope],
    )
    return app


def _build_components(settings: Settings, lifecycle: Lifecycle, stop: Callable[[int], None]) -> Components:
    metrics = Metrics()
    batcher = MicroBatcher(
        _batch_budget(settings, DEFAULT_BATCH_LIMITS),
        on_cancelled=metrics.cancellations.labels("queue").inc,
    )
    rasterizer = Rasterizer(
        raster_limits(settings),
        observe=lambda stage, seconds: metrics.raster_page_duration.labels(stage).observe(seconds),
        on_worker_death=lambda cause: metrics.raster_worker_deaths.labels(cause).inc(),
    )
    threads = ThreadPoolExecutor(max_workers=settings.rasterizer_processes + 2, thread_name_prefix="prepare")
    page_cache = PageCache(
        _DEFAULT_PAGE_CACHE_BYTES if settings.page_cache_bytes is None else settings.page_cache_bytes
    )
    metrics.export_cache("image", page_cache.counts)
    loader = PageLoader(rasterizer, page_cache, threads, max_pages=settings.max_pages)
    registry = _build_registry(settings, loader, batcher, metrics)

    def lose_device() -> None:
        lifecycle.fail()
        stop(EXIT_DEVICE_LOST)

    components = Components(
        settings=settings,
        metrics=metrics,
        tracing=Tracing(
            settings.tracing,
            replica=settings.replica,
            is_traced=is_traced,
            takes_documents=settings.tracing_documents,
        ),
        lifecycle=lifecycle,
        rasterizer=rasterizer,
        batcher=batcher,
        worker=InferenceWorker(batcher, metrics, on_lost=lose_device),
        flow=RerankFlow(settings, registry=registry, loader=loader, batcher=batcher, metrics=metrics, threads=threads),
        registry=registry,
        page_cache=page_cache,
        threads=threads,
        started_at=time.time(),
    )
    _bind_gauges(components)
    return components


def _batch_budget(settings: Settings, limits: BatchLimits) -> BatchBudget:
    """As set, else of those `limits`."""
    return BatchBudget(
        max_tokens=settings.max_batch_tokens or limits.tokens,
        max_patches=settings.max_batch_patches or limits.patches,
        queue_limit_tokens=settings.queue_limit_tokens,
        queue_seconds=settings.queue_seconds,
    )


def _build_registry(
    settings: Settings, loader: PageLoader, batcher: MicroBatcher, metrics: Metrics
) -> DocumentRegistry:
    store = DocumentStore(DocumentFiles(settings.document_store))
    threads = ThreadPoolExecutor(max_workers=_DOCUMENT_THREADS, thread_name_prefix="documents")
    processor = DocumentProcessor(
        store,
        loader,
        batcher.submit_background,
        threads=threads,
        queue_limit=settings.max_waiting_documents,
        pages_at_once=min(PAGES_AT_ONCE, settings.max_pages),
        on_processed=lambda state: metrics.documents_processed.labels(state).inc(),
    )
    metrics.documents_waiting.set_function(lambda: processor.waiting_documents)
    return DocumentRegistry(
        store,
        processor,
        loader,
        threads=threads,
        max_file_bytes=settings.max_file_bytes,
        max_document_pages=settings.max_document_pages,
    )


def _bind_gauges(components: Components) -> None:
    """Gauges read the real structures when they are scraped, so they cannot drift from them."""
    metrics, batcher, worker = components.metrics, components.batcher, components.worker
    metrics.requests_waiting.set_function(lambda: batcher.waiting_entries)
    metrics.requests_running.set_function(lambda: worker.running_entries)
    metrics.queue_pages.set_function(lambda: batcher.waiting_pages)
    metrics.queue_tokens.set_function(lambda: batcher.waiting_tokens)
    metrics.estimated_wait.set_function(lambda: batcher.estimated_wait_seconds)
    metrics.batch_budget_share.set_function(lambda: batcher.budget_share)
    metrics.raster_waiting.set_function(lambda: components.rasterizer.waiting_requests)
    metrics.ready.set_function(lambda: components.lifecycle.is_ready)


def _build_routes(app: FastAPI) -> None:
    """FastAPI builds routes when they are first matched: 15 ms of the event loop that no client should wait for."""
    for route in app.routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []})


async def _start(components: Components, load: LoadModel, stop: Callable[[int], None]) -> "asyncio.Task[None]":
    """Start the raster workers, and the loading of the model in the background, so that probes are answered meanwhile."""
    await asyncio.to_thread(components.rasterizer.start)
    components.tracing.start()
    return asyncio.create_task(_load(components, load, stop))


async def _load(components: Components, load: LoadModel, stop: Callable[[int], None]) -> None:
    started = time.perf_counter()
    try:
        model = await _in_daemon_thread(lambda: _load_checked(components.settings, load))
        warm_up_seconds = await asyncio.wrap_future(components.worker.start(model))
    except (RerankerError, StartError) as error:
        logger.error("the model cannot be served: %s", error)
        _give_up(components, stop)
    except Exception:
        logger.exception("the model cannot be served")
        _give_up(components, stop)
        raise
    else:
        _go_into_service(components, model, (time.perf_counter() - started, warm_up_seconds))


async def _in_daemon_thread(work: Callable[[], RankingModel]) -> RankingModel:
    """Like `asyncio.to_thread`, but the process may end meanwhile: a SIGTERM must not wait for 17 GB of weights."""
    future: Future[RankingModel] = Future()
    future.set_running_or_notify_cancel()  # who stops waiting leaves it to the thread

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (raised again where the future is awaited)
            future.set_exception(error)

    Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(future)


def _load_checked(settings: Settings, load: LoadModel) -> RankingModel:
    model = load(settings)
    largest = model.max_window_cost(settings.max_query_characters)
    budget = _batch_budget(settings, model.batch_limits)
    if largest.tokens > budget.max_tokens or largest.patches > budget.max_patches:
        raise StartError(
            f"max_batch_tokens is {budget.max_tokens} and max_batch_patches {budget.max_patches}; the "
            f"longest window that may be asked for has {largest.tokens} tokens and {largest.patches} patches. "
            "Raise the budgets, or lower max_query_characters."
        )
    return model


def _give_up(components: Components, stop: Callable[[int], None]) -> None:
    components.lifecycle.fail()
    stop(EXIT_LOAD_FAILED)


def _go_into_service(components: Components, model: RankingModel, seconds: tuple[float, float]) -> None:
    """`seconds`: from the start until now, and the part of it that the warm-up took."""
    # What is alive now stays: without this a full garbage collection walks all of it, and stops the event loop for 0.16 s.
    gc.collect()
    gc.freeze()
    components.model = model
    info, metrics = model.describe(), components.metrics
    metrics.model_load.set(seconds[0])
    metrics.warm_up.set(seconds[1])
    metrics.info.labels(version("ziprerank"), info.name, info.revision or "", info.dtype, info.device_name).set(1)
    _export_feature_cache(components, model)
    if components.settings.page_cache_bytes is None:
        feature_bytes = info.feature_cache_device_bytes + info.feature_cache_host_bytes
        components.page_cache.grow_to(feature_bytes // _FEATURE_BYTES_PER_PIXEL_BYTE)
    for kind in model.device_memory():
        metrics.device_memory.labels(info.device, kind).set_function(partial(_memory, model, kind))
    components.batcher.set_budget(_batch_budget(components.settings, model.batch_limits))
    components.registry.start(model)
    components.lifecycle.become_ready()
    _log_model(info, seconds)


def _log_model(info: ModelInfo, seconds: tuple[float, float]) -> None:
    logger.info("%s is loaded after %.1f s with %.1f s of warm-up: %s", info.name, *seconds, info.compute_reason)
    logger.info("decoder weights: %s (%s)", info.quantise, info.quantise_reason)
    if info.memory_plan is not None:
        logger.info("memory plan: %s", info.memory_plan)
    sizes = info.feature_cache_device_bytes, info.feature_cache_host_bytes
    logger.info("feature cache: %d bytes on the device, %d on the host", *sizes)
    logger.info("quantisation of the decoder: %s (%s)", info.quantise, info.quantise_reason)
    for tower, attention in (("vision", info.vision_attention), ("text", info.text_attention)):
        logger.info("%s attention: %s (%s)", tower, attention.kernel, attention.reason)
    for tower, layers in (("vision", info.vision_layers), ("text", info.text_layers)):
        logger.info("%s layers: %s (%s)", tower, "compiled" if layers.is_compiled else "as written", layers.reason)


def _export_feature_cache(components: Components, model: RankingModel) -> None:
    components.metrics.export_cache("vision", partial(_feature_cache_counts, model))
    tier_bytes = components.metrics.feature_tier_bytes
    tier_bytes.labels("gpu").set_function(lambda: model.cache_counts().device_bytes)
    tier_bytes.labels("host").set_function(lambda: model.cache_counts().host_bytes)


def _feature_cache_counts(model: RankingModel) -> CacheCounts:
    counts = model.cache_counts()
    return CacheCounts(
        hits=counts.hits,
        misses=counts.misses,
        evictions=counts.evictions,
        bytes=counts.device_bytes + counts.host_bytes,
    )


def _memory(model: RankingModel, kind: str) -> float:
    return model.device_memory()[kind]


async def _close(components: Components, loading: "asyncio.Task[None]") -> None:
    """In the order of the flow: nothing new, what waits is told, threads and processes end."""
    components.lifecycle.refuse()
    if not loading.done():
        loading.cancel()
    await components.registry.close()
    components.batcher.close()
    await asyncio.to_thread(components.worker.join, components.settings.drain_grace_seconds)
    components.batcher.fail_waiting(UnavailableError("draining", "The service is shutting down. Try another replica."))
    await asyncio.to_thread(components.rasterizer.close)
    components.threads.shutdown(wait=False, cancel_futures=True)
    await asyncio.to_thread(components.tracing.close)


def _handle_errors(app: FastAPI, metrics: Metrics) -> None:
    @app.exception_handler(ServiceError)
    async def _service_error(request: Request, error: ServiceError) -> Response:
        metrics.count_rejection(error.code)
        return error_response(error, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        message = {404: "There is no such route; see /docs.", 405: "The route does not take this method."}
        return plain_error_response(
            error.status_code,
            codes.get(error.status_code, "invalid_request"),
            message.get(error.status_code, "The request could not be read."),
            request.state.request_id,
            dict(error.headers or {}),
        )


def _describe_request(app: FastAPI) -> None:
    """Bodies are parsed by our own code, so their schema is added to the API description by hand."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = generate()
            schemas = description["components"]["schemas"]
            for body in (RerankRequest, DocumentRerankRequest):
                schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[body.__name__] = schema
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
