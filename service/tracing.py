"""Spans of requests, sent by OpenTelemetry: the only module that knows it. Off, there is no provider and every trace is None.

    POST /rerank                          FastAPI's own server span; continues a caller's traceparent
    └── rerank <dialect>                  attributes of OpenInference's rerankers, and of this service
        ├── parse, fetch, render, …       one span a stage; render and decode one a page, at the raster worker's times
        ├── queue, upload, … language     at the device thread's times, linked to the batch
        ├── respond
        └── score batch                   under the first request of the batch, linked to all of them

Stages are recorded when they have ended, with both times, so they may come from any thread or process. OpenTelemetry's own
variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …), which its SDK reads, set the destination and the sampling.
Spans never carry a query, a page or a file; ids and scores of documents only where a setting allows them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO

from opentelemetry import trace as otel
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, Tracer, format_span_id, format_trace_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from model import StageInterval

CLOSE_SECONDS = 5.0
"""Time limit for the export of the last spans: an unreachable collector must not delay the shutdown."""

_FILE = "file:"

_SPAN_KIND = {"openinference.span.kind": "RERANKER"}
_OPERATION = {"gen_ai.operation.name": "rerank"}  # proposed for the GenAI conventions, which have none for this yet

Attributes = Mapping[str, str | int | float | bool]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDocuments:
    """Ids and scores, best first, for a span that may carry them."""

    candidates: Sequence[str]  # ids, in the order of the request
    results: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One request whose spans are kept. Handed from the route through the queue to the device's thread; thread-safe."""

    tracer: Tracer
    span: Span  # `rerank <dialect>`
    takes_documents: bool  # whether spans may carry ids of documents

    @property
    def exemplar(self) -> Mapping[str, str]:
        """The link from a histogram's bucket to this trace."""
        return _exemplar(self.span.get_span_context())

    def stage(
        self,
        stage: str,
        *,
        began_ns: int,
        ended_ns: int,
        attributes: Attributes | None = None,
        batch: Link | None = None,
    ) -> None:
        """Record a stage that has ended. Times are those of `time.time_ns`."""
        span = self.tracer.start_span(
            stage,
            context=otel.set_span_in_context(self.span),
            start_time=began_ns,
            attributes=attributes,
            links=[batch] if batch else None,
        )
        span.end(end_time=ended_ns)

    def stage_ended(self, stage: str, seconds: float, attributes: Attributes | None = None) -> None:
        """Record a stage that took `seconds` and has ended just now."""
        ended_ns = wall_ns()
        self.stage(stage, began_ns=ended_ns - round(seconds * 1e9), ended_ns=ended_ns, attributes=attributes)

    def choose_dialect(self, dialect: str) -> None:
        """Name the request's span by the dialect, once the body is recognised."""
        self.span.update_name(f"rerank {dialect}")

    def describe(self, attributes: Attributes) -> None:
        """Add attributes to the request's span."""
        self.span.set_attributes(attributes)

    def describe_ranking(
        self, *, model: str, max_results: int | None, counts: Mapping[str, int], keep_ratio: float
    ) -> None:
        """Add the sizes and options of the ranking.

        counts: documents, pages, visual_tokens, kept_tokens, window_pages and cached_pages.
        """
        self.describe(
            {
                "gen_ai.request.model": model,
                "reranker.model_name": model,
                "gen_ai.rerank.candidate.count": counts["pages"],
                "ziprerank.documents": counts["documents"],
                "ziprerank.pages": counts["pages"],
                "ziprerank.visual_tokens.before": counts["visual_tokens"],
                "ziprerank.visual_tokens.after": counts["kept_tokens"],
                "ziprerank.cache.hits": counts["cached_pages"],
                "ziprerank.cache.misses": counts["window_pages"] - counts["cached_pages"],
                "ziprerank.keep_ratio": keep_ratio,
            }
        )
        if max_results:
            self.describe({"reranker.top_k": max_results, "gen_ai.rerank.top_n": max_results})

    def describe_documents(self, documents: RankedDocuments) -> None:
        """Add ids and scores. Callers ask `takes_documents` first."""
        for index, id in enumerate(documents.candidates):
            self.span.set_attribute(f"reranker.input_documents.{index}.document.id", id)
        for index, (id, score) in enumerate(documents.results):
            self.span.set_attribute(f"reranker.output_documents.{index}.document.id", id)
            self.span.set_attribute(f"reranker.output_documents.{index}.document.score", score)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedWindow:
    """A window of a batch whose request has a trace."""

    trace: Trace
    queue_seconds: float  # from the window's arrival to the start of the batch


def record_batch(
    windows: Sequence[TracedWindow], intervals: "Sequence[StageInterval]", *, seconds: float, attributes: Attributes
) -> None:
    """Record a batch that has ended just now and took `seconds`: its span, and in every trace the queue and the stages.

    The span of the batch lies in the trace of its first request, so that it is kept where that one is; it is linked to all.
    intervals: the stages of the batch, at times of `time.perf_counter`.
    """
    now, now_ns = time.perf_counter(), wall_ns()
    started_ns = now_ns - round(seconds * 1e9)
    first = windows[0].trace
    traces = dict.fromkeys(window.trace for window in windows)
    span = first.tracer.start_span(
        "score batch",
        context=otel.set_span_in_context(first.span),
        start_time=started_ns,
        attributes=attributes,
        links=[Link(trace.span.get_span_context()) for trace in traces],
    )
    span.end(end_time=now_ns)
    batch = Link(span.get_span_context())
    for window in windows:
        queued_ns = started_ns - round(window.queue_seconds * 1e9)
        window.trace.stage("queue", began_ns=queued_ns, ended_ns=started_ns, batch=batch)
        for interval in intervals:
            began_ns = now_ns - round((now - interval.started) * 1e9)
            ended_ns = began_ns + round(interval.seconds * 1e9)
            window.trace.stage(interval.stage, began_ns=began_ns, ended_ns=ended_ns, batch=batch)


class Tracing:
    """The provider of one service. `destination`: off, otlp, or file:PATH."""

    def __init__(
        self,
        destination: str,
        *,
        replica: str,
        is_traced: Callable[[str], bool] = lambda path: True,
        takes_documents: bool = False,
    ) -> None:
        """is_traced: whether requests for a path get a server span."""
        self._destination = destination
        self._is_traced = is_traced
        self._takes_documents = takes_documents
        self._provider = None if destination == "off" else _make_provider(replica)
        self._file: TextIO | None = None
        self._tracer = self._provider.get_tracer("ziprerank", version("ziprerank")) if self._provider else None

    @property
    def is_on(self) -> bool:
        return self._provider is not None

    def telemetry(self) -> dict[str, Any]:
        """FastAPI's configuration: its server span with this provider, and none of its other telemetry; off, none at all."""
        return {
            "tracer_provider": self._provider,
            "tracing": self.is_on,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: not self._is_traced(scope.get("path", "")),
        }

    def start(self) -> None:
        """Begin to export, in a thread. After the worker processes have been started: they must not inherit any of it."""
        if self._provider is None:
            return
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        exporter: SpanExporter
        if self._destination.startswith(_FILE):
            self._file = open(self._destination.removeprefix(_FILE), "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
            exporter = ConsoleSpanExporter(out=self._file, formatter=lambda span: span.to_json(indent=None) + "\n")
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def close(self) -> None:
        """Export the spans that are left, for CLOSE_SECONDS at most. Blocks."""
        if self._provider is None:
            return
        closing = threading.Thread(target=self._provider.shutdown, name="close-tracing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            logger.warning("the last spans could not be exported within %g s", CLOSE_SECONDS)
        elif self._file is not None:
            self._file.close()

    def exemplar(self) -> Mapping[str, str] | None:
        """The link from a histogram's bucket to the request that is being handled; None where its spans are not kept."""
        context = self._current()
        return _exemplar(context) if context and context.trace_flags.sampled else None

    def describe_server_span(self, method: str, route: str, *, has_query: bool, affinity: str | None) -> None:
        """Name the server span, also of a request that is refused before it is routed, and take documents' ids out of it."""
        if self._current() is None:
            return
        span = otel.get_current_span()
        span.update_name(f"{method} {route}")
        span.set_attribute("url.path", route)
        if has_query:
            span.set_attribute("url.query", "REDACTED")
        if affinity is not None:
            span.set_attribute("ziprerank.affinity", affinity)

    @contextmanager
    def rerank(self, dialect: str) -> Iterator[Trace | None]:
        """The span of one rerank request in a dialect; None where spans are not kept. An error ends it with its code."""
        if self._tracer is None:
            yield None
            return
        with self._tracer.start_as_current_span(
            f"rerank {dialect}",
            attributes={**_SPAN_KIND, **_OPERATION},
            record_exception=False,  # messages name documents
            set_status_on_exception=False,
        ) as span:
            trace = Trace(tracer=self._tracer, span=span, takes_documents=self._takes_documents)
            try:
                yield trace if span.get_span_context().trace_flags.sampled else None
            except BaseException as error:
                span.set_attribute("error.type", str(getattr(error, "code", type(error).__name__)))
                span.set_status(Status(StatusCode.ERROR))
                raise

    def _current(self) -> SpanContext | None:
        if self._provider is None:
            return None
        context = otel.get_current_span().get_span_context()
        return context if context.is_valid else None


def current_ids() -> dict[str, str]:
    """trace_id and span_id of the current span, for log lines; empty outside a trace."""
    context = otel.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


def wall_ns(seconds_ago: float = 0.0) -> int:
    """The time of day that spans carry, some seconds ago."""
    return time.time_ns() - round(seconds_ago * 1e9)


def _make_provider(replica: str) -> "TracerProvider":
    """A provider with the service's name, version and replica; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override them."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    own = {"service.name": "ziprerank", "service.version": version("ziprerank"), "service.instance.id": replica}
    resource = Resource.create(own).merge(OTELResourceDetector().detect())
    return TracerProvider(resource=resource, shutdown_on_exit=False)


def _exemplar(context: SpanContext) -> Mapping[str, str]:
    return {"trace_id": format_trace_id(context.trace_id)}
