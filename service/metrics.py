"""Every Prometheus series of the service, declared once. `app` binds the gauges to the parts that they read."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.errors import DOCUMENT_CODES
from service.time_limits import Degradation, DegradationReason, GivenUpName

STAGES = (
    "parse", "fetch", "render", "decode", "prepare", "queue", "upload", "vision", "compress", "pack", "language", "respond"
)  # fmt: skip

_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30)
_STAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)
_PAGES = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 200)
_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 12288, 16384, 24576, 32768, 49152, 65536)
_BYTES = tuple(2**power for power in range(10, 28, 2))

REJECTION_REASONS = {
    "unauthorized": "auth",
    "overloaded": "queue_full",
    "queue_timeout": "deadline",
    "deadline_exceeded": "deadline",
    "time_too_short": "deadline",
    "request_timeout": "deadline",
    "body_too_large": "too_large",
    "file_too_large": "too_large",
    "too_many_files": "too_large",
    "too_many_pages": "too_large",
    "too_many_values": "too_large",
    "image_too_many_pixels": "too_large",
    "unsupported_media_type": "media",
    "url_not_supported": "ssrf",
    "url_refused": "ssrf",
    "draining": "draining",
}
"""The reason of a refusal, by the code of its error. Other codes are faults of the request, which are not counted here."""

FETCH_OUTCOMES = (
    "fetched",
    "refused",
    "address",
    "unreachable",
    "timeout",
    "too_large",
    "media",
    "overloaded",
    "cancelled",
)
"""How the fetch of a URL can end. refused: by the list of hosts; address: no public one; cancelled: with its request."""

Exemplar = Mapping[str, str]
"""The trace of an observation: `{"trace_id": …}`. Shown in the OpenMetrics format alone."""


class CacheCounts(Protocol):
    """The work of a cache since the start, and its size now."""

    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class _CacheSeries:
    """Reads the caches at each scrape, so that the series cannot drift from them."""

    def __init__(self) -> None:
        self.readers: dict[str, Callable[[], CacheCounts]] = {}

    def collect(self) -> Iterator[Metric]:
        hits = CounterMetricFamily("ziprerank_cache_hits", "Lookups that a cache answered", labels=["cache"])
        misses = CounterMetricFamily(
            "ziprerank_cache_misses", "Lookups that a cache could not answer", labels=["cache"]
        )
        evictions = CounterMetricFamily(
            "ziprerank_cache_evictions", "Entries evicted for lack of room", labels=["cache"]
        )
        held = GaugeMetricFamily("ziprerank_cache_bytes", "Bytes in a cache", labels=["cache"])
        for cache, read in self.readers.items():
            counts = read()
            hits.add_metric([cache], counts.hits)
            misses.add_metric([cache], counts.misses)
            evictions.add_metric([cache], counts.evictions)
            held.add_metric([cache], counts.bytes)
        yield from (hits, misses, evictions, held)


class Metrics:
    """The series of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        self.requests = self._counter("requests", "Finished requests", "route", "dialect", "code")
        self.key_requests = self._counter("key_requests", "Finished requests by the id of the API key", "key", "code")
        self.requests_in_flight = self._gauge("requests_in_flight", "Accepted and not yet answered")
        self.requests_receiving = self._gauge("requests_receiving", "Of these, those whose body is being received")
        self.requests_waiting = self._gauge("requests_waiting", "Entries waiting for a batch")
        self.requests_running = self._gauge("requests_running", "Entries in the batch on the device")
        self.queue_pages = self._gauge("queue_pages", "Pages waiting for a batch")
        self.queue_tokens = self._gauge("queue_tokens", "Language tokens waiting for a batch")
        self.estimated_wait = self._gauge("estimated_wait_seconds", "Tokens waiting over the measured rate")
        self.request_duration = self._histogram(
            "request_duration_seconds", "From accept to answer", _REQUEST_SECONDS, "route", "outcome"
        )
        self.stage_duration = self._histogram(
            "stage_duration_seconds", "Per request; from upload to language per batch", _STAGE_SECONDS, "stage"
        )
        self.request_documents = self._histogram("request_documents", "Documents in a request", _PAGES)
        self.request_pages = self._histogram("request_pages", "Pages in a request", _PAGES)
        self.request_body_bytes = self._histogram("request_body_bytes", "Size of a request", _BYTES)
        self.batch_requests = self._histogram("batch_requests", "Entries in a batch", (1, 2, 3, 4, 6, 8, 12, 16, 32))
        self.batch_pages = self._histogram("batch_pages", "Pages in a batch", _PAGES)
        self.batch_tokens = self._histogram("batch_tokens", "Language tokens in a batch", _TOKENS)
        self.visual_tokens = self._counter("visual_tokens", "Visual tokens before and after pruning", "state")
        self.url_fetches = self._counter("url_fetches", "Fetches of documents from URLs that ended", "outcome")
        self.skipped = self._counter(
            "skipped_documents", "Unusable documents and pages left out of rankings, as their requests asked", "code"
        )
        self.rejections = self._counter("rejections", "Requests refused to shed load or for safety", "reason")
        self.cancellations = self._counter("cancellations", "Requests whose client went away", "stage")
        self.given_up = self._counter("given_up", "Parts of rankings given up for lack of time", "part")
        self.degraded_requests = self._counter("degraded_requests", "Answers with less than was asked for", "reason")
        self.raster_worker_deaths = self._counter("raster_worker_deaths", "Raster workers that died", "cause")
        self.raster_page_duration = self._histogram(
            "raster_page_duration_seconds", "One page in a raster worker", _STAGE_SECONDS, "stage"
        )
        self.raster_waiting = self._gauge("raster_requests_waiting", "Requests waiting for a raster worker")
        self.documents_waiting = self._gauge("documents_waiting", "Registered documents waiting to be processed")
        self.documents_processed = self._counter(
            "documents_processed", "Registered documents whose processing ended", "state"
        )
        self.device_busy = self._counter(
            "gpu_busy_seconds", "Time with work on the device, added as each batch ends; a CPU counts like a card"
        )
        self.device_memory = self._gauge("gpu_memory_bytes", "Memory of the device", "device", "kind")
        self.out_of_memory = self._counter("oom", "Batches that ran out of device memory")
        self.batch_budget_share = self._gauge(
            "batch_budget_share",
            "Share of the batch budgets in use: 1, less for a while after a batch ran out of memory",
        )
        self.engine_errors = self._counter("engine_errors", "Batches that failed")
        self.feature_tier_bytes = self._gauge("feature_tier_bytes", "Page features by where they are kept", "tier")
        self.ready = self._gauge("ready", "1 while requests are served")
        self.last_forward = self._gauge("last_forward_timestamp_seconds", "When the last batch finished")
        self.model_load = self._gauge("model_load_seconds", "Time to load the checkpoint and warm up")
        self.warm_up = self._gauge("warm_up_seconds", "The part of it that the warm-up took, compiling included")
        self.info = self._gauge("info", "Always 1", "version", "model", "revision", "dtype", "gpu")
        self._caches = _CacheSeries()
        self.registry.register(self._caches)
        self._show_from_the_start()

    def observe_stages(self, seconds_by_stage: Mapping[str, float], exemplar: Exemplar | None = None) -> None:
        for stage, seconds in seconds_by_stage.items():
            self.stage_duration.labels(stage).observe(seconds, _labels_of(exemplar))

    def observe_request(self, route: str, outcome: str, seconds: float, exemplar: Exemplar | None = None) -> None:
        self.request_duration.labels(route, outcome).observe(seconds, _labels_of(exemplar))

    def export_cache(self, cache: str, counts: Callable[[], CacheCounts]) -> None:
        """Show a cache (`image`: rendered pages, `vision`: page features) under its name."""
        self._caches.readers[cache] = counts

    def observe_raster_page(self, stage: str, seconds: float) -> None:
        self.raster_page_duration.labels(stage).observe(seconds)

    def count_raster_worker_death(self, cause: str) -> None:
        self.raster_worker_deaths.labels(cause).inc()

    def count_processed_document(self, state: str) -> None:
        self.documents_processed.labels(state).inc()

    def count_url_fetch(self, outcome: str) -> None:
        self.url_fetches.labels(outcome).inc()

    def count_skipped(self, code: str) -> None:
        self.skipped.labels(code).inc()

    def count_key_request(self, key_id: str, status: int) -> None:
        self.key_requests.labels(key_id, str(status)).inc()

    def count_degradation(self, degradation: Degradation) -> None:
        self.degraded_requests.labels(degradation.reason).inc()
        for part in degradation.given_up:
            self.given_up.labels(part.name).inc()

    def count_rejection(self, code: str) -> None:
        """Count an error where it is a refusal."""
        if reason := REJECTION_REASONS.get(code):
            self.rejections.labels(reason).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All series in the format that an Accept header asks for, text or OpenMetrics with exemplars, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def _show_from_the_start(self) -> None:
        """Series with labels from a closed set begin at 0: a rate does not see the first event of a series that begins at 1."""
        for stage in STAGES:
            self.stage_duration.labels(stage)
            self.cancellations.labels(stage)
        for reason in REJECTION_REASONS.values():
            self.rejections.labels(reason)
        for outcome in FETCH_OUTCOMES:
            self.url_fetches.labels(outcome)
        for part in get_args(GivenUpName):
            self.given_up.labels(part)
        for reason in get_args(DegradationReason):
            self.degraded_requests.labels(reason)
        for code in DOCUMENT_CODES:
            self.skipped.labels(code)
        for state in ("input", "kept"):
            self.visual_tokens.labels(state)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"ziprerank_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"ziprerank_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"ziprerank_{name}", help_text, labels, buckets=buckets, registry=self.registry)


def _labels_of(exemplar: Exemplar | None) -> dict[str, str] | None:
    return dict(exemplar) if exemplar else None
