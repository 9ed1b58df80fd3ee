"""The rerank routes of all dialects: read the query, have it answered, write the answer."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.dialects.body import RequestBody
from service.dialects.dialect import RequestHead
from service.errors import OverloadedError
from service.fair_queue import Standing
from service.fair_threads import FairThreads
from service.http.body import check_body_headers, read_body
from service.http.deadline import (
    DEGRADED_HEADER,
    TIMEOUT_HEADER,
    Result,
    degraded_header,
    timeout_of,
    until_disconnect,
    within,
)
from service.http.error_responses import JsonResponse
from service.http.route_registration import serve
from service.http.route_table import FoundRoute, RouteTable
from service.http.skipped import skipped_headers
from service.inference.request_record import RequestRecord
from service.inference.request_timing import TimeLimit
from service.inference.rerank import RerankPipeline
from service.metrics import Metrics
from service.records import RerankQuery
from service.served_model import ServedModel
from service.settings import Settings
from service.tracing import Tracing

_REQUEST_STAGES = ("parse", "fetch", "render", "decode", "prepare", "respond")
"""Counted here, once a request. The inference worker counts the others, once a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRoutes:
    """Answers rerank requests. threads: read the bodies."""

    settings: Settings
    pipeline: RerankPipeline
    model: ServedModel
    metrics: Metrics
    tracing: Tracing
    threads: FairThreads

    def add_to(self, router: APIRouter, table: RouteTable) -> None:
        for route in table.routes:
            if route.operations:
                serve(router, route, self.rerank)

    async def rerank(self, request: Request) -> Response:
        """Raises ServiceError, which `exchange` writes in the dialect of the request."""
        found: FoundRoute = request.state.route
        with self.tracing.rerank(found.route.dialect.name) as trace:
            record = RequestRecord(trace)
            check_body_headers(request.headers, found.route.media_types)
            header_timeout_ms = timeout_of(request.headers)
            self.pipeline.refuse_early(request.state.caller)
            try:
                body = await self._in_time(request, header_timeout_ms, read_body(request, self.settings))
                self.metrics.request_body_bytes.observe(sum(map(len, body)))
                work = within(
                    self.settings.request_seconds,
                    self._rank(request, found, body, record, header_timeout_ms),
                    remedy="Send fewer pages, or try again later.",
                )
                return await until_disconnect(request, work)
            except ClientDisconnect:
                self.metrics.cancellations.labels(record.stage).inc()
                record.describe({"error.type": "client_disconnected", "ziprerank.stage": record.stage})
                return Response(status_code=499)  # which no client reads, but the log line and the metrics have it
            finally:
                request.state.facts.update(**record.sizes, **record.seconds)

    async def _rank(
        self,
        request: Request,
        found: FoundRoute,
        body: list[bytes],
        record: RequestRecord,
        header_timeout_ms: int | None,
    ) -> Response:
        """The answer."""
        with record.observe("parse"):
            query = await self._in_time(request, header_timeout_ms, self._read_query(request, found, body, record))
        limit = self._time_limit(query, request.state.arrived_at, header_timeout_ms)
        answer = await self.pipeline.answer(
            query,
            caller=request.state.caller,
            model=self.model.get(),
            record=record,
            request_id=request.state.request_id,
            limit=limit,
        )
        own_stages = {stage: seconds for stage, seconds in record.seconds.items() if stage in _REQUEST_STAGES}
        self.metrics.observe_stages(own_stages, record.exemplar)
        headers = dict(skipped_headers(answer.skipped))
        if answer.degradation is not None:
            headers[DEGRADED_HEADER] = degraded_header(answer.degradation)
            request.state.facts["degraded"] = headers[DEGRADED_HEADER].replace(", ", ",")
        sent = None if limit is None else BackgroundTask(self._learn_leaving, record)
        return JsonResponse(request.state.dialect.write(query, answer), headers=headers, background=sent)

    async def _read_query(
        self, request: Request, found: FoundRoute, body: list[bytes], record: RequestRecord
    ) -> RerankQuery:
        content = RequestBody(body, content_type=request.headers.get("content-type", ""))
        loop = asyncio.get_running_loop()
        threads = self.threads.of(Standing(share_id=request.state.caller.share_id))
        dialect = await loop.run_in_executor(threads, found.route.dialect_of, content)
        request.state.dialect = dialect
        if record.trace is not None:
            record.trace.choose_dialect(dialect.name)
        query = await loop.run_in_executor(threads, dialect.read, content, self._head(found))
        request.state.query = query  # which an error of any later stage is written with
        body.clear()  # whose strings and files the query has
        return query

    async def _in_time(self, request: Request, timeout_ms: int | None, work: Awaitable[Result]) -> Result:
        """The result of a step that comes before the body is read. timeout_ms: of the whole request.

        Raises: the errors of `work`; OverloadedError.
        """
        if timeout_ms is None:
            return await work
        given_up_at = (
            request.state.arrived_at + timeout_ms / 1000 - self.pipeline.timekeeper.last_steps_seconds(timeout_ms)
        )
        try:
            async with asyncio.timeout(given_up_at - time.monotonic()):
                return await work
        except TimeoutError:
            message = f"The request has {timeout_ms} ms, too few to read its body and answer. Raise {TIMEOUT_HEADER}."
            raise OverloadedError("time_too_short", message, retry_after_seconds=1) from None

    def _time_limit(self, query: RerankQuery, arrived_at: float, header_timeout_ms: int | None) -> TimeLimit | None:
        """The smaller of the times in body and header; where neither names one, the configured one."""
        named = [timeout_ms for timeout_ms in (query.timeout_ms, header_timeout_ms) if timeout_ms is not None]
        timeout_ms = min(named) if named else self.settings.default_timeout_ms
        if timeout_ms is None:
            return None
        return TimeLimit(timeout_ms=timeout_ms, ends_at=arrived_at + timeout_ms / 1000, on_deadline=query.on_deadline)

    async def _learn_leaving(self, record: RequestRecord) -> None:
        """The answer was sent. (It is a coroutine, because a function would be run in a thread.)"""
        if record.answer_due_at is not None:
            self.pipeline.timekeeper.times.record_leaving(time.monotonic() - record.answer_due_at)

    def _head(self, found: FoundRoute) -> RequestHead:
        settings = self.settings
        return RequestHead(
            path=found.label,
            path_id=found.document_id,
            max_documents=max(settings.max_files, settings.max_pages),
            max_uploads=settings.max_files,
            default_score=None if settings.score == "auto" else settings.score,
            fetches_urls=self.pipeline.fetches_urls,
        )
