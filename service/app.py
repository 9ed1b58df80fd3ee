"""Builds the application: every object of the service is made here, and handed the objects that it needs."""

import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import fields
from importlib.metadata import version
from typing import cast

from fastapi import APIRouter, FastAPI, Request
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from model import DEFAULT_BATCH_LIMITS, Reranker, RerankerConfig
from service.api_keys import KeyRing
from service.dialects import DIALECTS
from service.dialects.dialect import Dialect
from service.documents.held_pages import HeldPages
from service.documents.loader import PageLoader
from service.documents.page_cache import PageCache
from service.documents.page_image import PageImages
from service.fair_queue import MAX_SLOWNESS, Standing
from service.fair_threads import FairThreads
from service.fetching.fetcher import FetchLimits, UrlFetcher
from service.host_gate import HostGate
from service.http.admission import Admission, AdmissionLimits
from service.http.affinity import REPLICA_HEADER
from service.http.callers import Callers
from service.http.deadline import DEGRADED_HEADER
from service.http.docs_page import add_docs_page
from service.http.document_routes import DOCUMENT_DESCRIPTIONS, DocumentRoutes
from service.http.error_responses import http_error_response
from service.http.exchange import REQUEST_ID_HEADER, ExchangeMiddleware
from service.http.openapi import describe_api
from service.http.operation_routes import OPERATION_DESCRIPTIONS, OperationRoutes
from service.http.playground_routes import PLAYGROUND_DESCRIPTIONS, PlaygroundRoutes
from service.http.rate_limits import RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER, RateLimits
from service.http.rerank_routes import RerankRoutes
from service.http.route_table import RouteTable
from service.http.router import build_router
from service.http.skipped import SKIPPED_HEADER
from service.inference.measured_times import MeasuredTimes
from service.inference.micro_batcher import MicroBatcher
from service.inference.page_rates import PageRates
from service.inference.request_timing import Timekeeper
from service.inference.rerank import RerankPipeline
from service.inference.worker import InferenceWorker
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.raster.pool import Rasterizer, RasterLimits
from service.readiness import Readiness
from service.registered.files import DocumentFiles
from service.registered.processor import PAGES_AT_ONCE, DocumentProcessor
from service.registered.registry import DocumentRegistry
from service.registered.store import DocumentStore
from service.served_model import ServedModel
from service.settings import Settings
from service.startup import EXIT_DEVICE_LOST, LoadModel, Service, Stop, batch_budget
from service.tracing import Tracing
from service.urls.policy import parse_policy

_DEFAULT_PAGE_CACHE_BYTES = 1 << 30
_DOCUMENT_THREADS = 4  # they wait for disks and object stores


def _go_on(exit_code: int) -> None:
    """The `stop` of runners that watch the process themselves, such as Ray by its health checks."""


def load_reranker(settings: Settings) -> Reranker:
    """Load the checkpoint that the settings name. Raises: RerankerError."""
    return Reranker.from_checkpoint(settings.model, reranker_config(settings), revision=settings.revision)


def reranker_config(settings: Settings) -> RerankerConfig:
    """The settings of the model."""
    return RerankerConfig(**{field.name: getattr(settings, field.name) for field in fields(RerankerConfig)})


def raster_limits(settings: Settings) -> RasterLimits:
    """The settings of the raster workers."""
    return RasterLimits(
        processes=settings.rasterizer_processes,
        max_image_pixels=settings.max_image_pixels,
        on_degraded_page=settings.on_degraded_page,
    )


def fetch_limits(settings: Settings) -> FetchLimits:
    """The settings of the fetching of URLs. The documents of one request may have as many bytes as a request's body."""
    return FetchLimits(
        max_file_bytes=settings.max_file_bytes,
        max_request_bytes=settings.max_body_bytes,
        max_held_bytes=settings.max_in_flight_bytes,
        max_requests=settings.url_fetch_requests or max(1, settings.max_concurrent_requests // 4),
        seconds=settings.url_fetch_seconds,
    )


def admission_limits(settings: Settings) -> AdmissionLimits:
    """The settings of admission."""
    return AdmissionLimits(**{field.name: getattr(settings, field.name) for field in fields(AdmissionLimits)})


def build_app(
    settings: Settings,
    *,
    lifecycle: Lifecycle | None = None,
    load: LoadModel = load_reranker,
    stop: Stop = _go_on,
    dialects: Sequence[Dialect] = DIALECTS,
) -> FastAPI:
    """The application.

    stop: called where the process cannot go on: the model cannot be served, or the device is lost.
    """
    table = RouteTable.of_dialects(dialects, has_playground=settings.playground)
    metrics = Metrics()
    tracing = Tracing(
        settings.tracing,
        replica=settings.replica,
        is_traced=table.is_traced,
        takes_documents=settings.tracing_documents,
    )
    service = _build_service(settings, lifecycle or Lifecycle(), metrics, tracing, stop)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _build_routes(app)
        app.state.loading = loading = await service.start(load, stop)
        yield
        await service.close(loading)

    app = FastAPI(
        title="ZipRerank",
        version=version("ziprerank"),
        telemetry=cast(TelemetryConfig, tracing.telemetry()),
        description="Ranks the pages of documents by relevance to a query. Scores compare within one answer only.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _answer_http_error},
    )
    app.state.service = service  # for runners other than `server`, such as Ray
    app.include_router(_build_router(service, table))
    add_docs_page(app, root_path=settings.root_path)
    describe_api(
        app,
        table,
        {**DOCUMENT_DESCRIPTIONS, **OPERATION_DESCRIPTIONS, **PLAYGROUND_DESCRIPTIONS},
        is_key_required=settings.is_key_required,
        root_path=settings.root_path,
    )
    _add_middleware(app, service, table)
    return app


def _add_middleware(app: FastAPI, service: Service, table: RouteTable) -> None:
    """Every request passes these, the last one first."""
    settings = service.settings
    admission = Admission(service.lifecycle, admission_limits(settings))
    service.metrics.requests_in_flight.set_function(lambda: admission.requests)
    service.metrics.requests_receiving.set_function(lambda: admission.receiving)
    app.add_middleware(
        ExchangeMiddleware,
        routes=table,
        callers=Callers(
            keys=KeyRing(
                single=settings.api_key.get_secret_value() if settings.api_key else None, path=settings.api_keys_file
            ),
            cache_scope=settings.cache_scope,
        ),
        admission=admission,
        limits=RateLimits(page_rates=service.pipeline.page_rates, admission=admission),
        metrics=service.metrics,
        tracing=service.tracing,
        replica=settings.replica,
        root_path=settings.root_path,
    )
    if settings.cors_origins:
        app.add_middleware(  # in front of the others: a preflight carries no key
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=("GET", "POST", "PUT", "DELETE"),
            allow_headers=("*",),
            expose_headers=(
                REQUEST_ID_HEADER,
                REPLICA_HEADER,
                DEGRADED_HEADER,
                SKIPPED_HEADER,
                "Retry-After",
                RATE_LIMIT_HEADER,
                RATE_LIMIT_POLICY_HEADER,
            ),
        )


def _build_service(settings: Settings, lifecycle: Lifecycle, metrics: Metrics, tracing: Tracing, stop: Stop) -> Service:
    def lose_device() -> None:
        lifecycle.fail()
        stop(EXIT_DEVICE_LOST)

    gate = HostGate()
    batcher = MicroBatcher(
        batch_budget(settings, DEFAULT_BATCH_LIMITS),
        gate=gate,
        on_cancelled=metrics.cancellations.labels("queue").inc,
    )
    times = MeasuredTimes(lanes=settings.rasterizer_processes)
    worker = InferenceWorker(batcher, metrics, times=times, on_lost=lose_device)
    rasterizer = Rasterizer(
        raster_limits(settings),
        observe=metrics.observe_raster_page,
        on_worker_death=metrics.count_raster_worker_death,
        gate=gate,
    )
    threads = FairThreads(settings.rasterizer_processes + 2, name="prepare", gate=gate)
    background = threads.of(Standing(share_id="background", slowness=MAX_SLOWNESS))
    page_cache = PageCache(
        _DEFAULT_PAGE_CACHE_BYTES if settings.page_cache_bytes is None else settings.page_cache_bytes
    )
    loader = PageLoader(rasterizer, page_cache, background, max_pages=settings.max_pages)
    fetcher = UrlFetcher(parse_policy(settings.url_fetch), fetch_limits(settings), on_fetched=metrics.count_url_fetch)
    registry = _build_registry(settings, loader, batcher, metrics)
    metrics.export_cache("image", page_cache.counts)
    _bind_gauges(metrics, batcher, worker, rasterizer, lifecycle)
    return Service(
        settings=settings,
        metrics=metrics,
        tracing=tracing,
        lifecycle=lifecycle,
        readiness=Readiness(
            lifecycle=lifecycle, rasterizer=rasterizer, worker=worker, stall_seconds=settings.stall_seconds
        ),
        model=ServedModel(),
        rasterizer=rasterizer,
        page_cache=page_cache,
        batcher=batcher,
        worker=worker,
        registry=registry,
        fetcher=fetcher,
        pipeline=RerankPipeline(
            settings,
            registry=registry,
            fetcher=fetcher,
            loader=loader,
            batcher=batcher,
            metrics=metrics,
            timekeeper=Timekeeper(times, queue_wait=batcher.estimated_wait_of),
            threads=threads,
            page_rates=PageRates(),
            held_pages=HeldPages(settings.max_held_pages),
        ),
        threads=threads,
        gate=gate,
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
        on_processed=metrics.count_processed_document,
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


def _build_router(service: Service, table: RouteTable) -> APIRouter:
    settings, metrics = service.settings, service.metrics
    return build_router(
        table,
        rerank=RerankRoutes(
            settings=settings,
            pipeline=service.pipeline,
            model=service.model,
            metrics=metrics,
            tracing=service.tracing,
            threads=service.threads,
        ),
        documents=DocumentRoutes(
            settings=settings,
            metrics=metrics,
            registry=service.registry,
            page_images=PageImages(service.rasterizer, at_once=settings.rasterizer_processes),
            threads=service.threads,
        ),
        operation=OperationRoutes(
            settings=settings,
            lifecycle=service.lifecycle,
            readiness=service.readiness,
            metrics=metrics,
            model=service.model,
            batcher=service.batcher,
            page_cache=service.page_cache,
            started_at=time.time(),
        ),
        playground=PlaygroundRoutes(root_path=settings.root_path) if settings.playground else None,
    )


def _bind_gauges(
    metrics: Metrics, batcher: MicroBatcher, worker: InferenceWorker, rasterizer: Rasterizer, lifecycle: Lifecycle
) -> None:
    """Gauges read the real structures when they are scraped, so they cannot drift from them."""
    metrics.requests_waiting.set_function(lambda: batcher.waiting_windows)
    metrics.requests_running.set_function(lambda: worker.running_windows)
    metrics.queue_pages.set_function(lambda: batcher.waiting_pages)
    metrics.queue_tokens.set_function(lambda: batcher.waiting_tokens)
    metrics.estimated_wait.set_function(lambda: batcher.estimated_wait_seconds)
    metrics.batch_budget_share.set_function(lambda: batcher.budget_share)
    metrics.raster_waiting.set_function(lambda: rasterizer.waiting_requests)
    metrics.ready.set_function(lambda: lifecycle.is_ready)


def _build_routes(app: FastAPI) -> None:
    """Have FastAPI build its routes now. It builds a route when that is first matched, which for all of them takes 15 ms of
    the event loop, and has no function to do so earlier; so each is matched once, with a path that no client sends."""
    for route in app.routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []})


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    return http_error_response(error, request.state.request_id)
