"""The routes of registered documents: each one translates between a request and the registry, and knows nothing else."""

import asyncio
from collections.abc import Awaitable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.dialects.schemas import (
    DocumentsQuery,
    ErrorBody,
    RegisteredDocumentPages,
    RegisteredDocuments,
    parse_documents_query,
)
from service.dialects.submission import check_document_id, choose_put_parser
from service.errors import DeadlineExceededError
from service.http.body import read_body
from service.http.error_responses import JsonResponse
from service.http.route_registration import serve
from service.http.route_table import DELETE_DOCUMENT, GET_DOCUMENT, LIST_DOCUMENTS, PUT_DOCUMENT
from service.metrics import Metrics
from service.registered.registry import DocumentRegistry
from service.registered.store import DocumentKey, StoredDocument
from service.settings import Settings

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentComponents:
    """What these routes are handed."""

    settings: Settings
    metrics: Metrics
    registry: DocumentRegistry
    threads: Executor


def add_document_routes(router: APIRouter, components: DocumentComponents) -> None:
    """`PUT`, `GET` and `DELETE /documents/{id}`, and `GET /documents`; each also under /v1."""
    _add_put(router, components)
    _add_get_and_delete(router, components)
    _add_list(router, components)


def _add_put(router: APIRouter, components: DocumentComponents) -> None:
    answers = {202: {"model": RegisteredDocumentPages}, **_errors(408, 413, 415, 422)}

    @serve(router, PUT_DOCUMENT, tags=["documents"], status_code=202, responses=answers, openapi_extra=_put_body())
    async def put_document(request: Request, id: str) -> Response:
        """Store a PDF or an image under an id, in place of what had it, and process its pages in the background."""
        key = _key(request, id)
        try:
            data = await _read_document(request, components)
        except ClientDisconnect:
            components.metrics.cancellations.labels("parse").inc()
            return Response(status_code=499)  # nobody reads it; the log and the metrics do
        document = await _in_time(components.registry.put(key, data), components)
        return JsonResponse(_with_pages(document), status_code=202)


def _add_get_and_delete(router: APIRouter, components: DocumentComponents) -> None:
    answers = {200: {"model": RegisteredDocumentPages}, **_errors(404)}

    @serve(router, GET_DOCUMENT, tags=["documents"], responses=answers)
    async def get_document(request: Request, id: str) -> Response:
        """How far a document is, and its pages."""
        document = await _in_time(components.registry.get(_key(request, id)), components)
        return JsonResponse(_with_pages(document))

    @serve(router, DELETE_DOCUMENT, tags=["documents"], status_code=204, responses=_errors(404))
    async def delete_document(request: Request, id: str) -> Response:
        """Forget a document."""
        await _in_time(components.registry.delete(_key(request, id)), components)
        return Response(status_code=204)


def _add_list(router: APIRouter, components: DocumentComponents) -> None:
    answers = {200: {"model": RegisteredDocuments}, **_errors()}

    @serve(
        router, LIST_DOCUMENTS, tags=["documents"], responses=answers, openapi_extra={"parameters": _query_parameters()}
    )
    async def list_documents(request: Request) -> Response:
        """The caller's documents by id, without their pages."""
        query = parse_documents_query(request.query_params)
        found = components.registry.list(request.state.cache_scope, after=query.after, limit=query.limit)
        listing = await _in_time(found, components)
        described = [describe_document(document) for document in listing.documents]
        return JsonResponse({"object": "list", "data": described, "next": listing.next})


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in sorted({400, 401, 429, 500, 503, 504, *statuses})}


def _put_body() -> dict[str, Any]:
    """The forms of the body for the API description."""
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": file}}
    content: dict[str, Any] = {
        media_type: {"schema": file} for media_type in ("application/pdf", "image/*", "application/octet-stream")
    }
    return {"requestBody": {"required": True, "content": {**content, "multipart/form-data": {"schema": form}}}}


def _query_parameters() -> list[dict[str, Any]]:
    schema = DocumentsQuery.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema[name]} for name in schema]


async def _in_time(work: Awaitable[Result], components: DocumentComponents) -> Result:
    """The result of `work`. Raises: what it raises; DeadlineExceededError."""
    limit = components.settings.request_seconds
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError:
        message = f"The request took over {limit:g} s. Try again later."
        raise DeadlineExceededError("deadline_exceeded", message) from None


def _key(request: Request, id: str) -> DocumentKey:
    check_document_id(id)
    return DocumentKey(tenant=request.state.cache_scope, id=id)


async def _read_document(request: Request, components: DocumentComponents) -> bytes | bytearray:
    settings = components.settings
    headers = request.headers
    parse = choose_put_parser(headers.get("content-type", ""), headers.get("content-encoding", ""))
    body = await read_body(
        request,
        max_bytes=settings.max_body_bytes,
        idle_seconds=settings.body_idle_seconds,
        total_seconds=settings.body_seconds,
    )
    return await asyncio.get_running_loop().run_in_executor(components.threads, parse, body)


def _with_pages(document: StoredDocument) -> dict[str, Any]:
    return {**describe_document(document), "pages": _pages(document)}


def describe_document(document: StoredDocument) -> dict[str, Any]:
    """What a client is told of a document, less its pages."""
    manifest = document.manifest
    described: dict[str, Any] = {
        "id": manifest.id,
        "state": document.state,
        "page_count": manifest.page_count,
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "created": manifest.created,
    }
    if document.outcome and (failure := document.outcome.failure):
        message = failure.message if failure.page is None else f"page {failure.page}: {failure.message}"
        described["error"] = {"code": failure.code, "message": message, "page": failure.page}
    return described


def _pages(document: StoredDocument) -> list[Mapping[str, Any]]:
    manifest = document.manifest
    if not manifest.is_paged:
        return [{"id": manifest.id, "page": None}]
    return [{"id": f"{manifest.id}#page={number}", "page": number} for number in range(1, manifest.page_count + 1)]
