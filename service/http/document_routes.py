"""The routes of registered documents: put, get, delete and list."""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.dialects.error_bodies import ErrorBody
from service.errors import InvalidRequestError
from service.http.body import check_body_headers, read_body
from service.http.deadline import within
from service.http.document_body import DOCUMENT_MEDIA_TYPES, MULTIPART, parse_document_body
from service.http.document_schemas import (
    DocumentsQuery,
    RegisteredDocumentPages,
    RegisteredDocuments,
    describe_document,
    describe_listing,
    parse_documents_query,
)
from service.http.error_responses import JsonResponse
from service.http.route_registration import serve
from service.http.route_table import DELETE_DOCUMENT, GET_DOCUMENT, LIST_DOCUMENTS, PUT_DOCUMENT
from service.metrics import Metrics
from service.records import DOCUMENT_ID, DOCUMENT_ID_RULE
from service.registered.registry import DocumentRegistry
from service.registered.store import DocumentKey
from service.settings import Settings

_REMEDY = "Try again later."


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRoutes:
    """Answers requests about registered documents. threads: parse the bodies."""

    settings: Settings
    metrics: Metrics
    registry: DocumentRegistry
    threads: Executor

    def add_to(self, router: APIRouter) -> None:
        file = {"type": "string", "format": "binary"}
        form = {"type": "object", "required": ["file"], "properties": {"file": file}}
        content = {name: {"schema": form if name == MULTIPART else file} for name in DOCUMENT_MEDIA_TYPES}
        fields = DocumentsQuery.model_json_schema()["properties"]
        parameters = [{"name": name, "in": "query", "required": False, "schema": fields[name]} for name in fields]
        put: dict[str, Any] = {
            "status_code": 202,
            "responses": {202: {"model": RegisteredDocumentPages}, **_errors(408, 413, 415, 422)},
            "openapi_extra": {"requestBody": {"required": True, "content": content}},
        }
        get: dict[str, Any] = {"responses": {200: {"model": RegisteredDocumentPages}, **_errors(404)}}
        delete: dict[str, Any] = {"status_code": 204, "responses": _errors(404)}
        list_: dict[str, Any] = {
            "responses": {200: {"model": RegisteredDocuments}, **_errors()},
            "openapi_extra": {"parameters": parameters},
        }
        serve(router, PUT_DOCUMENT, self.put_document, tags=["documents"], **put)
        serve(router, GET_DOCUMENT, self.get_document, tags=["documents"], **get)
        serve(router, DELETE_DOCUMENT, self.delete_document, tags=["documents"], **delete)
        serve(router, LIST_DOCUMENTS, self.list_documents, tags=["documents"], **list_)

    async def put_document(self, request: Request, id: str) -> Response:
        """Store a PDF or an image under an id, in place of an earlier one, and process its pages in the background."""
        key = _key(request, id)
        media_type = check_body_headers(request.headers, DOCUMENT_MEDIA_TYPES)
        try:
            body = await read_body(request, self.settings)
        except ClientDisconnect:
            self.metrics.cancellations.labels("parse").inc()
            return Response(status_code=499)  # which no client reads, but the log line and the metrics have it
        data = await asyncio.get_running_loop().run_in_executor(
            self.threads, parse_document_body, body, request.headers.get("content-type", ""), media_type == MULTIPART
        )
        seconds = self.settings.request_seconds
        document = await within(seconds, self.registry.put(key, data), remedy=_REMEDY)
        return _json(describe_document(document), status_code=202)

    async def get_document(self, request: Request, id: str) -> Response:
        """The state of a document, and its pages."""
        work = self.registry.get(_key(request, id))
        return _json(describe_document(await within(self.settings.request_seconds, work, remedy=_REMEDY)))

    async def delete_document(self, request: Request, id: str) -> Response:
        """Delete a document."""
        await within(self.settings.request_seconds, self.registry.delete(_key(request, id)), remedy=_REMEDY)
        return Response(status_code=204)

    async def list_documents(self, request: Request) -> Response:
        """The caller's documents by id, without their pages."""
        query = parse_documents_query(request.query_params)
        work = self.registry.list(request.state.caller.tenant, after=query.after, limit=query.limit)
        return _json(describe_listing(await within(self.settings.request_seconds, work, remedy=_REMEDY)))


def _key(request: Request, id: str) -> DocumentKey:
    if not DOCUMENT_ID.fullmatch(id):
        raise InvalidRequestError("invalid_request", f"id: {DOCUMENT_ID_RULE}", param="id")
    return DocumentKey(tenant=request.state.caller.tenant, id=id)


def _json(body: BaseModel, status_code: int = 200) -> JsonResponse:
    return JsonResponse(body.model_dump(exclude_unset=True), status_code=status_code)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in sorted({400, 401, 429, 500, 503, 504, *statuses})}
