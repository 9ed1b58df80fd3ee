"""Start and stop of a service: load and check the model, go into service, close."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from threading import Thread

from model import BatchLimits, ModelInfo, RankingModel, RerankerError
from service.documents.page_cache import CacheCounts, PageCache
from service.errors import UnavailableError
from service.fair_threads import FairThreads
from service.fetching.fetcher import UrlFetcher
from service.host_gate import HostGate
from service.inference.micro_batcher import BatchBudget, MicroBatcher
from service.inference.rerank import RerankPipeline
from service.inference.worker import InferenceWorker
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.raster.pool import Rasterizer
from service.readiness import Readiness
from service.registered.registry import DocumentRegistry
from service.served_model import ServedModel
from service.settings import Settings
from service.tracing import Tracing

EXIT_LOAD_FAILED = 1
EXIT_DEVICE_LOST = 70

_FEATURE_BYTES_PER_PIXEL_BYTE = 10  # of an A4 page in bfloat16: 23 MB for 2.2 MB

LoadModel = Callable[[Settings], RankingModel]
Stop = Callable[[int], None]
"""Ends the process with an exit code; called from any thread."""

logger = logging.getLogger(__name__)


class StartError(Exception):
    """The settings and the loaded checkpoint do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of one service, and their start and stop together."""

    settings: Settings
    metrics: Metrics
    tracing: Tracing
    lifecycle: Lifecycle
    readiness: Readiness
    model: ServedModel
    rasterizer: Rasterizer
    page_cache: PageCache
    batcher: MicroBatcher
    worker: InferenceWorker
    registry: DocumentRegistry
    fetcher: UrlFetcher
    pipeline: RerankPipeline
    threads: FairThreads
    gate: HostGate

    async def start(self, load: LoadModel, stop: Stop) -> "asyncio.Task[None]":
        """Start the raster workers, then load the model in the background, so that probes are answered meanwhile.

        stop: called where the model cannot be served.
        """
        await asyncio.to_thread(self.rasterizer.start)
        self.tracing.start()
        return asyncio.create_task(self._load(load, stop))

    async def close(self, loading: "asyncio.Task[None]") -> None:
        """Shut down in request order: stop admitting, fail queued requests, then join threads and processes."""
        self.lifecycle.refuse()
        if not loading.done():
            loading.cancel()
        await self.registry.close()
        self.batcher.close()
        await asyncio.to_thread(self.worker.join, self.settings.drain_grace_seconds)
        self.batcher.fail_waiting(UnavailableError("draining", "The service is shutting down. Try another replica."))
        await asyncio.to_thread(self.rasterizer.close)
        self.threads.shutdown()
        self.fetcher.close()
        await asyncio.to_thread(self.tracing.close)

    async def _load(self, load: LoadModel, stop: Stop) -> None:
        started = time.perf_counter()
        try:
            model = await _in_daemon_thread(partial(_load_checked, self.settings, load))
            warm_up_seconds = await asyncio.wrap_future(self.worker.start(model))
        except (RerankerError, StartError) as error:
            logger.error("the model cannot be served: %s", error)
            self._give_up(stop)
        except Exception:
            logger.exception("the model cannot be served")
            self._give_up(stop)
            raise
        else:
            load_seconds = time.perf_counter() - started
            self.metrics.model_load.set(load_seconds)
            self.metrics.warm_up.set(warm_up_seconds)
            self._go_into_service(model)
            logger.info("in service after %.1f s, of which the warm-up took %.1f s", load_seconds, warm_up_seconds)

    def _give_up(self, stop: Stop) -> None:
        self.lifecycle.fail()
        stop(EXIT_LOAD_FAILED)

    def _go_into_service(self, model: RankingModel) -> None:
        # Objects that exist now live as long as the process: frozen, they are not walked by full garbage collections, each of
        # which would stop the event loop for 0.16 s.
        gc.collect()
        gc.freeze()
        self.model.set(model)
        info = model.describe()
        if self.settings.page_cache_bytes is None:
            feature_bytes = info.feature_cache_device_bytes + info.feature_cache_host_bytes
            self.page_cache.grow_to(feature_bytes // _FEATURE_BYTES_PER_PIXEL_BYTE)
        self.batcher.set_budget(batch_budget(self.settings, model.batch_limits))
        if info.device == "cpu":
            self.gate.enable()
        _export(model, info, self.metrics)
        _log(info)
        self.registry.start(model)
        self.lifecycle.become_ready()


def batch_budget(settings: Settings, limits: BatchLimits) -> BatchBudget:
    """The batch budgets by the settings; those that are not set by `limits`."""
    return BatchBudget(
        max_tokens=settings.max_batch_tokens or limits.tokens,
        max_patches=settings.max_batch_patches or limits.patches,
        queue_limit_tokens=settings.queue_limit_tokens,
        queue_seconds=settings.queue_seconds,
    )


async def _in_daemon_thread(work: Callable[[], RankingModel]) -> RankingModel:
    """Like `asyncio.to_thread`, but the process may end meanwhile: a SIGTERM must not wait for 17 GB of weights."""
    future: Future[RankingModel] = Future()
    future.set_running_or_notify_cancel()  # cancelling the awaiter must not cancel the thread

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (raised again where the future is awaited)
            future.set_exception(error)

    Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(future)


def _load_checked(settings: Settings, load: LoadModel) -> RankingModel:
    """Raises: RerankerError; StartError where the largest window that a client may ask for exceeds the batch budgets."""
    model = load(settings)
    largest = model.max_window_cost(settings.max_query_characters)
    budget = batch_budget(settings, model.batch_limits)
    if largest.tokens > budget.max_tokens or largest.patches > budget.max_patches:
        raise StartError(
            f"max_batch_tokens is {budget.max_tokens} and max_batch_patches {budget.max_patches}; the "
            f"longest window that may be asked for has {largest.tokens} tokens and {largest.patches} patches. "
            "Raise the budgets, or lower max_query_characters."
        )
    return model


def _export(model: RankingModel, info: ModelInfo, metrics: Metrics) -> None:
    """Show the model, its caches and its memory in the metrics."""
    metrics.info.labels(version("ziprerank"), info.name, info.revision or "", info.dtype, info.device_name).set(1)
    metrics.export_cache("vision", partial(_feature_cache_counts, model))
    metrics.feature_tier_bytes.labels("gpu").set_function(lambda: model.cache_counts().device_bytes)
    metrics.feature_tier_bytes.labels("host").set_function(lambda: model.cache_counts().host_bytes)
    for kind in model.device_memory():
        metrics.device_memory.labels(info.device, kind).set_function(partial(_memory, model, kind))


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


def _log(info: ModelInfo) -> None:
    """Log the choices that were made for the model, each with its reason."""
    logger.info("%s is loaded: %s", info.name, info.compute_reason)
    logger.info("decoder weights: %s (%s)", info.quantise, info.quantise_reason)
    if info.memory_plan is not None:
        logger.info("memory plan: %s", info.memory_plan)
    sizes = info.feature_cache_device_bytes, info.feature_cache_host_bytes
    logger.info("feature cache: %d bytes on the device, %d on the host", *sizes)
    for tower, attention in (("vision", info.vision_attention), ("text", info.text_attention)):
        logger.info("%s attention: %s (%s)", tower, attention.kernel, attention.reason)
    for tower, layers in (("vision", info.vision_layers), ("text", info.text_layers)):
        logger.info("%s layers: %s (%s)", tower, "compiled" if layers.is_compiled else "as written", layers.reason)
