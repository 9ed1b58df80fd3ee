"""The rerank routes of all dialects: read the query, have it answered, write the answer."""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.dialects.dialect import RequestHead
from service.http.body import check_body_headers, read_body
from service.http.deadline import until_disconnect, within
from service.http.error_responses import JsonResponse
from service.http.openapi import describe_operation
from service.http.route_registration import serve
from service.http.route_table import FoundRoute, RouteTable
from service.inference.request_record import RequestRecord
from service.inference.rerank import RerankPipeline
from service.metrics import Metrics
from service.served_model import ServedModel
from service.settings import Settings
from service.tracing import Tracing

_ERROR_STATUSES = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
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
    threads: Executor

    def add_to(self, router: APIRouter, table: RouteTable) -> None:
        for route in table.routes:
            if (operation := route.operation) is not None:
                responses: dict[int | str, dict[str, Any]] = {}
                if operation.answer is not None:
                    responses[200] = {"model": operation.answer}
                if operation.error is not None:
                    responses |= {status: {"model": operation.error} for status in _ERROR_STATUSES}
                serve(
                    router,
                    route,
                    self.rerank,
                    name=operation.name,
                    description=operation.description,
                    responses=responses,
                    openapi_extra=describe_operation(operation),
                )

    async def rerank(self, request: Request) -> Response:
        """Raises ServiceError, which `exchange` writes in the dialect of the route."""
        found: FoundRoute = request.state.route
        with self.tracing.rerank(found.route.dialect.name) as trace:
            record = RequestRecord(trace)
            check_body_headers(request.headers, found.route.dialect.media_types)
            try:
                body = await read_body(request, self.settings)
                self.metrics.request_body_bytes.observe(sum(map(len, body)))
                work = within(
                    self.settings.request_seconds,
                    self._rank(request, found, body, record),
                    remedy="Send fewer pages, or try again later.",
                )
                return JsonResponse(await until_disconnect(request, work))
            except ClientDisconnect:
                self.metrics.cancellations.labels(record.stage).inc()
                record.describe({"error.type": "client_disconnected", "ziprerank.stage": record.stage})
                return Response(status_code=499)  # which no client reads, but the log line and the metrics have it
            finally:
                request.state.facts.update(**record.sizes, **record.seconds)

    async def _rank(self, request: Request, found: FoundRoute, body: list[bytes], record: RequestRecord) -> Any:
        """The body of the answer."""
        dialect = found.route.dialect
        head = RequestHead(
            content_type=request.headers.get("content-type", ""),
            path_id=found.document_id,
            max_documents=self.settings.max_files,
        )
        with record.observe("parse"):
            query = await asyncio.get_running_loop().run_in_executor(self.threads, dialect.read, body, head)
        request.state.query = query  # which an error of any later stage is written with
        answer = await self.pipeline.answer(
            query,
            caller=request.state.caller,
            model=self.model.get(),
            record=record,
            request_id=request.state.request_id,
        )
        own_stages = {stage: seconds for stage, seconds in record.seconds.items() if stage in _REQUEST_STAGES}
        self.metrics.observe_stages(own_stages, record.exemplar)
        return dialect.write(query, answer)
