"""The routes of registered documents: put, get, delete and list."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.documents.page_image import PAGE_IMAGE_TYPE, PageImages
from service.errors import InvalidRequestError, PageOutOfRangeError
from service.fair_queue import Standing
from service.fair_threads import FairThreads
from service.http.body import check_body_headers, read_body
from service.http.caching import cache_headers, is_known
from service.http.deadline import until_disconnect, within
from service.http.document_body import DOCUMENT_MEDIA_TYPES, MULTIPART, parse_document_body
from service.http.document_schemas import (
    DocumentsQuery,
    PageImageQuery,
    PutQuery,
    RegisteredDocumentPages,
    RegisteredDocuments,
    describe_document,
    describe_listing,
    parse_query,
)
from service.http.error_responses import JsonResponse
from service.http.openapi import OperationDescription
from service.http.route_registration import serve
from service.http.route_table import DELETE_DOCUMENT, GET_DOCUMENT, LIST_DOCUMENTS, PAGE_IMAGE, PUT_DOCUMENT
from service.metrics import Metrics
from service.records import DOCUMENT_ID, DOCUMENT_ID_RULE
from service.registered.registry import DocumentRegistry
from service.registered.store import DocumentKey
from service.settings import Settings

_REMEDY = "Try again later."
_PAGE_NUMBER = re.compile(r"[1-9][0-9]{0,8}")

_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": ["file"], "properties": {"file": _FILE}}


def _parameters(query: type[BaseModel]) -> list[Mapping[str, Any]]:
    """The fields of a query string, for the API description."""
    fields: Mapping[str, Any] = query.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]


_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "the `ETag` of an image that the client has: 304 where it is still the same",
    "schema": {"type": "string"},
}

DOCUMENT_DESCRIPTIONS: Mapping[str, OperationDescription] = {
    PUT_DOCUMENT.name: OperationDescription(
        summary="Register a document",
        text="Store a PDF or an image under an id, in place of an earlier one, and process its pages in the background.",
        status=202,
        answer=RegisteredDocumentPages,
        statuses=[400, 408, 415, 422, 504],
        parameters=_parameters(PutQuery),
        request_content={name: {"schema": _FORM if name == MULTIPART else _FILE} for name in DOCUMENT_MEDIA_TYPES},
    ),
    GET_DOCUMENT.name: OperationDescription(
        summary="Show a document",
        text="The state of a registered document, and its pages.",
        answer=RegisteredDocumentPages,
        statuses=[400, 404, 504],
    ),
    DELETE_DOCUMENT.name: OperationDescription(
        summary="Delete a document", text="Delete a registered document.", status=204, statuses=[400, 404, 504]
    ),
    LIST_DOCUMENTS.name: OperationDescription(
        summary="List documents",
        text="The caller's registered documents by id, without their pages.",
        answer=RegisteredDocuments,
        statuses=[400, 504],
        parameters=_parameters(DocumentsQuery),
    ),
    PAGE_IMAGE.name: OperationDescription(
        summary="Show a page",
        text="A page of a registered document as an image, drawn when no rerank request needs the workers. "
        "`ETag` follows the document's bytes, the page and the width.",
        answer_content={PAGE_IMAGE_TYPE: {"schema": _FILE}},
        other_answers=[304],
        statuses=[400, 404, 422, 504],
        parameters=[*_parameters(PageImageQuery), _IF_NONE_MATCH],
    ),
}
"""For the API description, by the name of the route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRoutes:
    """Answers requests about registered documents. threads: parse the bodies, and wait for the store."""

    settings: Settings
    metrics: Metrics
    registry: DocumentRegistry
    page_images: PageImages
    threads: FairThreads

    def add_to(self, router: APIRouter) -> None:
        serve(router, PUT_DOCUMENT, self.put_document)
        serve(router, GET_DOCUMENT, self.get_document)
        serve(router, DELETE_DOCUMENT, self.delete_document)
        serve(router, PAGE_IMAGE, self.page_image)
        serve(router, LIST_DOCUMENTS, self.list_documents)

    async def put_document(self, request: Request) -> Response:
        """Store a PDF or an image under an id, in place of an earlier one, and process its pages in the background."""
        key = _key(request)
        query = parse_query(PutQuery, request.query_params)
        media_type = check_body_headers(request.headers, DOCUMENT_MEDIA_TYPES)
        try:
            body = await read_body(request, self.settings)
        except ClientDisconnect:
            self.metrics.cancellations.labels("parse").inc()
            return Response(status_code=499)  # which no client reads, but the log line and the metrics have it
        threads = self.threads.of(Standing(share_id=request.state.caller.share_id))
        data = await asyncio.get_running_loop().run_in_executor(
            threads, parse_document_body, body, request.headers.get("content-type", ""), media_type == MULTIPART
        )
        seconds = self.settings.request_seconds
        document = await within(seconds, self.registry.put(key, data, ttl_seconds=query.ttl_seconds), remedy=_REMEDY)
        return _json(describe_document(document), status_code=202)

    async def get_document(self, request: Request) -> Response:
        """The state of a document, and its pages."""
        work = self.registry.get(_key(request))
        return _json(describe_document(await within(self.settings.request_seconds, work, remedy=_REMEDY)))

    async def delete_document(self, request: Request) -> Response:
        """Delete a document."""
        await within(self.settings.request_seconds, self.registry.delete(_key(request)), remedy=_REMEDY)
        return Response(status_code=204)

    async def list_documents(self, request: Request) -> Response:
        """The caller's documents by id, without their pages."""
        query = parse_query(DocumentsQuery, request.query_params)
        work = self.registry.list(request.state.caller.tenant, after=query.after, limit=query.limit)
        return _json(describe_listing(await within(self.settings.request_seconds, work, remedy=_REMEDY)))

    async def page_image(self, request: Request) -> Response:
        """A page as a JPEG image, or 304 where the client has it."""
        key, query = _key(request), parse_query(PageImageQuery, request.query_params)
        number = _page_number(request)
        try:
            work = within(
                self.settings.request_seconds, self._page_image(request, key, number, query.width), remedy=_REMEDY
            )
            return await until_disconnect(request, work)
        except ClientDisconnect:
            return Response(status_code=499)

    async def _page_image(self, request: Request, key: DocumentKey, number: int, width: int) -> Response:
        share_id = request.state.caller.share_id
        threads = self.threads.of(Standing(share_id=share_id))
        find = partial(self.registry.find_source, key.id, None, tenant=key.tenant)
        source = await asyncio.get_running_loop().run_in_executor(threads, find)
        if number > source.outline.page_count:
            message = f"page {number} does not exist; the document has {source.outline.page_count} page(s)."
            raise PageOutOfRangeError("page_out_of_range", message, param="page")
        tag = f"{source.sha256[:32]}-{number}-{width}"
        headers = cache_headers(tag)
        if is_known(request.headers, tag):
            return Response(status_code=304, headers=headers)
        image = await self.page_images.draw(source, number, width=width, threads=threads, share_id=share_id)
        return Response(image, media_type=PAGE_IMAGE_TYPE, headers=headers)


def _page_number(request: Request) -> int:
    """Of the path. Raises: InvalidRequestError."""
    text: str = request.path_params["page"]
    if not _PAGE_NUMBER.fullmatch(text):
        message = "page: pages are numbered from 1; send a number of at most 9 digits."
        raise InvalidRequestError("invalid_request", message, param="page")
    return int(text)


def _key(request: Request) -> DocumentKey:
    """The caller's name of the document in the path. Raises: InvalidRequestError."""
    id: str = request.path_params["id"]
    if not DOCUMENT_ID.fullmatch(id):
        raise InvalidRequestError("invalid_request", f"id: {DOCUMENT_ID_RULE}", param="id")
    return DocumentKey(tenant=request.state.caller.tenant, id=id)


def _json(body: BaseModel, status_code: int = 200) -> JsonResponse:
    return JsonResponse(body.model_dump(exclude_unset=True), status_code=status_code)
