"""Bodies of the service's own format as JSON to queries.

Field names are those of the other rerank APIs, so that their clients need no change. Unknown fields are ignored and named in
`meta.warnings`, except in the service's own group `ziprerank`, where a typing error must not pass unseen.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from service.dialects.body import RequestBody
from service.dialects.dialect import RequestHead
from service.dialects.document_fields import DocumentList, FreeDocumentList, ReadDocuments
from service.dialects.request_fields import (
    AnswerDefaults,
    RerankFields,
    ignored_warning,
    query_of,
    read_query,
    validate,
)
from service.errors import InvalidRequestError
from service.records import DOCUMENT_ID, DOCUMENT_ID_RULE, DocumentReference, RerankQuery

DEFAULTS = AnswerDefaults(score="softmax", score_of_strings="relative", yields_one=None)
"""Scores of strings survive the thresholds of clients that can send nothing else."""

_SOURCES = frozenset({"text", "image", "pdf", "url", "image_url", "content", "value", "file", "id"})


_MAX_RANK_FIELDS = 100


class RerankRequest(RerankFields):
    """Body of `POST /rerank` as JSON."""

    documents: FreeDocumentList = Field(description="documents whose pages are ranked together")
    rank_fields: list[str] | None = Field(
        None,
        max_length=_MAX_RANK_FIELDS,
        description="of documents that have none of the usual fields: those that make up their text",
    )

    @model_validator(mode="before")
    @classmethod
    def _join_rank_fields(cls, value: Any) -> Any:
        """Cohere's documents of free fields: the named ones become the text, a line each."""
        names = value.get("rank_fields") if isinstance(value, dict) else None
        if not isinstance(names, list) or not isinstance(value.get("documents"), list):
            return value
        if len(names) > _MAX_RANK_FIELDS:  # which is refused
            return value
        return {**value, "documents": [_with_text(document, names) for document in value["documents"]]}


class DocumentRerankRequest(RerankFields):
    """Body of `POST /documents/{id}/rerank` as JSON."""

    documents: DocumentList | None = Field(
        None,
        description="absent: the registered document of the path is ranked. Given: these are ranked, as by `POST /rerank`, "
        "and the path's id (of a document or a collection, registered or not) only tells a load balancer where to send them",
    )
    pages: str | None = Field(
        None, description="without documents: 1-based page numbers of the registered document; absent: all"
    )

    @model_validator(mode="after")
    def _pages_are_of_one_document(self) -> Self:
        if self.documents is not None and self.pages is not None:
            raise ValueError(
                "pages belongs to the document of the path; give each of documents a pages field of its own"
            )
        return self


def read_json(body: RequestBody, head: RequestHead) -> RerankQuery:
    """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
    if head.path_id is None:
        listed = validate(RerankRequest, body, head)
        return read_query(listed, listed.documents, head, defaults=DEFAULTS)
    request = validate(DocumentRerankRequest, body, head)
    if request.documents is None:
        yields_one = request.ziprerank.results == "documents"
        reference = path_reference(head.path_id, request.pages, yields_one=yields_one)
        only = only_document(reference, notes=ignored_warning(list(request.ignored_fields())))
        return query_of(request, only, head, defaults=DEFAULTS)
    return read_query(request, request.documents, head, defaults=DEFAULTS)


def only_document(reference: DocumentReference, *, notes: tuple[str, ...]) -> ReadDocuments:
    """The registered document of the path as the one document."""
    return ReadDocuments(
        field="documents",
        documents=(reference,),
        notes=notes,
        metadata={},
        are_strings=False,
        first_stage_scores={},
    )


def path_reference(path_id: str | None, pages: str | None, *, yields_one: bool) -> DocumentReference:
    """The registered document of the path. Raises: InvalidRequestError where the path cannot name one."""
    assert path_id is not None, "a body without documents is read only where the path names a document"
    if not DOCUMENT_ID.fullmatch(path_id):
        raise InvalidRequestError("invalid_request", f"id: {DOCUMENT_ID_RULE}", param="id")
    return DocumentReference(name="id", id=path_id, pages=pages, yields_one=yields_one)


def _with_text(document: Any, names: list[Any]) -> Any:
    if not isinstance(document, Mapping) or _SOURCES & document.keys():
        return document
    each_once = dict.fromkeys(name for name in names if isinstance(name, str))  # or one name would multiply a text
    lines = [str(document[name]) for name in each_once if document.get(name) is not None]
    return {**document, "text": "\n".join(lines)} if lines else document
