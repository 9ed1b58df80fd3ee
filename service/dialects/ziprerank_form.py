"""Bodies of the service's own format as multipart/form-data to queries: files, and the fields of its JSON."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from service.dialects.body import RequestBody, read_json
from service.dialects.dialect import RequestHead
from service.dialects.document_fields import MAX_LABEL_LENGTH, ReadDocuments, check_document_count
from service.dialects.faults import to_service_error
from service.dialects.multipart import Part, parse_multipart
from service.dialects.request_fields import RerankFields, ZipRerankOptions, ignored_warning, query_of
from service.dialects.ziprerank_request import DEFAULTS, only_document, path_reference
from service.errors import InvalidRequestError, MalformedBodyError
from service.records import DocumentReference, RerankQuery, Upload

_REPEATED_FIELDS = ("id", "pages", "first_stage_score")

FORM: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "minLength": 1},
        "file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
        "id": {"type": "array", "items": {"type": "string"}, "description": "labels, in the order of the files"},
        "pages": {"type": "array", "items": {"type": "string"}, "description": "such as 1-3,7; one a file"},
        "first_stage_score": {
            "type": "array",
            "items": {"type": "string"},
            "description": "numbers of the search that found the files, one a file, for ziprerank.blend; empty: none",
        },
        "top_n": {"type": "integer"},
        "raw_scores": {"type": "boolean"},
        "return_documents": {"type": "boolean"},
        "ziprerank": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "the ziprerank group as a JSON string",
        },
    },
}
"""JSON schema of a body of multipart/form-data, less `required`."""


def read_form(body: RequestBody, head: RequestHead) -> RerankQuery:
    """Raises: MalformedBodyError, InvalidRequestError, TooLargeError."""
    parts = parse_multipart(body.pieces, body.content_type)
    files = [part for part in parts if part.is_file]
    if any(part.name != "file" for part in files):
        message = "A file part has another name than 'file'; rename it."
        raise InvalidRequestError("invalid_request", message, param="file")
    check_document_count(len(files), head.max_uploads)
    if not files and head.path_id is None:
        raise InvalidRequestError("invalid_request", "file: no document was sent; add a file part.", param="file")
    repeated, fields = _form_fields([part for part in parts if not part.is_file])
    notes = ignored_warning(list(fields.ignored_fields()))
    yields_one = fields.ziprerank.results == "documents"
    if not files:
        reference = _only_reference(head.path_id, repeated, yields_one=yields_one)
        return query_of(fields, only_document(reference, notes=notes), head, defaults=DEFAULTS)
    uploads = _file_documents(files, repeated, yields_one=yields_one)
    documents = ReadDocuments(
        field="documents",
        documents=uploads,
        notes=notes,
        metadata={},
        are_strings=False,
        first_stage_scores=_first_stage_scores(repeated["first_stage_score"]),
    )
    return query_of(fields, documents, head, defaults=DEFAULTS)


def _form_fields(parts: Sequence[Part]) -> tuple[dict[str, list[str]], RerankFields]:
    """The fields that repeat once a file, and all others."""
    repeated: dict[str, list[str]] = {name: [] for name in _REPEATED_FIELDS}
    single: dict[str, Any] = {}
    for part in parts:
        if part.name in repeated:
            repeated[part.name].append(part.text)
        elif part.name in single:
            raise MalformedBodyError(
                "malformed_multipart", "A form field other than id, pages and first_stage_score is sent twice."
            )
        else:
            single[part.name] = _options(part.text) if part.name == "ziprerank" else part.text
    # An empty number or switch in a form is a field left blank.
    blank = [name for name, value in single.items() if value == "" and name != "query"]
    try:
        fields = RerankFields.model_validate({name: value for name, value in single.items() if name not in blank})
    except ValidationError as error:
        raise to_service_error(error) from error
    return repeated, fields


def _options(text: str) -> ZipRerankOptions:
    value = read_json(text.encode(), what="The field ziprerank")
    try:
        return ZipRerankOptions.model_validate(value)
    except ValidationError as error:
        raise to_service_error(error, within="ziprerank") from error


def _file_documents(
    files: Sequence[Part], repeated: Mapping[str, Sequence[str]], *, yields_one: bool
) -> tuple[Upload, ...]:
    for name, values in repeated.items():
        if len(values) > len(files):
            message = f"{name}: {len(values)} fields for {len(files)} file parts; send one a file, in the same order."
            raise InvalidRequestError("invalid_request", message, param=name)
    return tuple(
        _file_document(index, part, _nth(repeated["id"], index), _nth(repeated["pages"], index), yields_one=yields_one)
        for index, part in enumerate(files)
    )


def _file_document(index: int, part: Part, label: str, pages: str, *, yields_one: bool) -> Upload:
    if len(label) > MAX_LABEL_LENGTH:
        message = f"id: {len(label)} characters and the limit is {MAX_LABEL_LENGTH}. Send a shorter one."
        raise InvalidRequestError("invalid_request", message, param="id", document_index=index)
    file_name = PurePosixPath((part.file_name or "").replace("\\", "/")).name[:MAX_LABEL_LENGTH]
    return Upload(
        name=f"file[{index}]",
        content=part.data,
        kind="image" if part.content_type.startswith("image/") else None,
        pages=pages or None,
        label=label or file_name or f"document-{index}",
        yields_one=yields_one,
    )


def _first_stage_scores(values: Sequence[str]) -> Mapping[int, float]:
    """By file. Raises: InvalidRequestError."""
    scores: dict[int, float] = {}
    for index, value in enumerate(values):
        if not value:
            continue
        try:
            scores[index] = float(value)
        except ValueError:
            scores[index] = math.nan
        if not math.isfinite(scores[index]):
            message = f"first_stage_score: the field of file {index} is not a finite number. Send one such as 0.5."
            raise InvalidRequestError("invalid_request", message, param="first_stage_score", document_index=index)
    return scores


def _only_reference(
    path_id: str | None, repeated: Mapping[str, Sequence[str]], *, yields_one: bool
) -> DocumentReference:
    name = next((name for name in ("id", "first_stage_score") if repeated[name]), None)
    if name is not None or len(repeated["pages"]) > 1:
        name = name or "pages"
        message = (
            f"{name}: without file parts the document of the path is ranked; send one pages field at most, and no id or "
            "first_stage_score."
        )
        raise InvalidRequestError("invalid_request", message, param=name)
    return path_reference(path_id, _nth(repeated["pages"], 0) or None, yields_one=yields_one)


def _nth(values: Sequence[str], index: int) -> str:
    return values[index] if index < len(values) else ""
