"""What a client submitted, as one record whatever the wire format: JSON or multipart in, `Submission` out.

Works on a body that is already in memory; runs in a thread, because large bodies take tens of milliseconds. Documents are
still undecoded, or names of registered ones: `page_loader` turns both into pages.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from service.dialects.multipart import Part, parse_multipart
from service.dialects.schemas import (
    DocumentInput,
    RerankInput,
    check_document_count,
    parse_document_json,
    parse_fields,
    parse_json,
    parse_options,
)
from service.errors import InvalidRequestError, MalformedBodyError, UnsupportedMediaTypeError

_JSON, _MULTIPART = "application/json", "multipart/form-data"
_REPEATED_FIELDS = ("id", "pages")
_LABEL_LENGTH = 512
_REGISTERED_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REFERENCE = re.compile(rf"({_REGISTERED_ID.pattern})(?:#page=([0-9]{{1,9}}))?")
_PUT_TYPES = ("application/pdf", "application/octet-stream")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedDocument:
    """One document as it came. `field` is its name in the request, for messages."""

    field: str  # documents[0].pdf, file[0]
    content: str | bytearray  # a string is a data URI or base64
    kind: Literal["pdf", "image"] | None  # what the client called it; None: a file part
    pages: str | None
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReference:
    """A registered document by its id. `field` is its name in the request, for messages."""

    field: str  # documents[0].id
    id: str
    pages: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A whole request."""

    options: RerankInput
    documents: tuple[SubmittedDocument | DocumentReference, ...]
    warnings: tuple[str, ...]


Parse = Callable[[Sequence[bytes]], Submission]


def choose_parser(content_type: str, content_encoding: str, *, max_files: int, path_id: str | None = None) -> Parse:
    """The parser for a content type, chosen before the body is read.

    path_id: the registered document that is meant by a body without documents; None: there must be some.
    Raises: UnsupportedMediaTypeError.
    """
    _refuse_encoding(content_encoding)
    media_type = _media_type(content_type)
    if media_type == _JSON:
        return lambda body: _from_json(body, max_files, path_id)
    if media_type == _MULTIPART:
        return lambda body: _from_multipart(body, content_type, max_files, path_id)
    raise UnsupportedMediaTypeError(
        "unsupported_media_type",
        f"Content-Type must be {_JSON} or {_MULTIPART}.",
        param="content-type",
    )


def choose_put_parser(content_type: str, content_encoding: str) -> Callable[[Sequence[bytes]], bytes | bytearray]:
    """The parser that gets the one document out of the body of `PUT /documents/{id}`.

    Raises: UnsupportedMediaTypeError.
    """
    _refuse_encoding(content_encoding)
    media_type = _media_type(content_type)
    if media_type in _PUT_TYPES or media_type.startswith("image/"):
        return b"".join
    if media_type == _MULTIPART:
        return lambda body: _only_file(parse_multipart(body, content_type))
    raise UnsupportedMediaTypeError(
        "unsupported_media_type",
        f"Content-Type must be {', '.join(_PUT_TYPES)}, image/… or {_MULTIPART}.",
        param="content-type",
    )


def check_document_id(id: str) -> None:
    """Raises InvalidRequestError where `id` cannot be that of a registered document."""
    if not _REGISTERED_ID.fullmatch(id):
        message = "id: a registered document's id has 1 to 128 of the characters A-Z a-z 0-9 . _ -"
        raise InvalidRequestError("invalid_request", message, param="id")


def _refuse_encoding(content_encoding: str) -> None:
    if content_encoding.lower() not in ("", "identity"):
        raise UnsupportedMediaTypeError(
            "unsupported_media_type", "Content-Encoding is set; send the body uncompressed.", param="content-encoding"
        )


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _only_file(parts: Sequence[Part]) -> bytearray:
    if len(parts) != 1 or parts[0].file_name is None:
        message = f"{len(parts)} parts were sent; a document is put as one file part and nothing else."
        raise InvalidRequestError("invalid_request", message, param="file")
    _check_file_names(parts)
    return parts[0].data


def _from_json(body: Sequence[bytes], max_files: int, path_id: str | None) -> Submission:
    if path_id is not None:
        return _from_document_json(b"".join(body), max_files, path_id)
    request = parse_json(b"".join(body), max_files=max_files)
    return _json_submission(request, _json_documents(request.documents))


def _from_document_json(body: bytes, max_files: int, path_id: str) -> Submission:
    request = parse_document_json(body, max_files=max_files)
    if request.documents is not None:
        return _json_submission(request, _json_documents(request.documents))
    return _json_submission(request, (_path_reference(path_id, request.pages),))


def _json_submission(request: RerankInput, documents: tuple[SubmittedDocument | DocumentReference, ...]) -> Submission:
    return Submission(options=request, documents=documents, warnings=_warnings(list(request.ignored_fields())))


def _json_documents(documents: Sequence[DocumentInput]) -> tuple[SubmittedDocument | DocumentReference, ...]:
    return tuple(_json_document(index, document) for index, document in enumerate(documents))


def _path_reference(path_id: str, pages: str | None) -> DocumentReference:
    check_document_id(path_id)
    return DocumentReference(field="id", id=path_id, pages=pages)


def _json_document(index: int, document: DocumentInput) -> SubmittedDocument | DocumentReference:
    if document.is_reference:
        return _reference(index, document)
    kind: Literal["pdf", "image"] = "pdf" if document.pdf is not None else "image"
    return SubmittedDocument(
        field=f"documents[{index}].{kind}",
        content=document.pdf if document.pdf is not None else document.image or "",
        kind=kind,
        pages=document.pages,
        label=document.id or f"document-{index}",
    )


def _reference(index: int, document: DocumentInput) -> DocumentReference:
    assert document.id is not None, "the schema asks for the id where there is neither image nor pdf"
    field = f"documents[{index}].id"
    found = _REFERENCE.fullmatch(document.id)
    if found is None:
        message = (
            f"{field}: without image and pdf it names a registered document (1 to 128 of the characters "
            "A-Z a-z 0-9 . _ -), or a page of it as in report#page=3."
        )
        raise InvalidRequestError("invalid_request", message, param=field, document_index=index)
    if found[2] and document.pages is not None:
        message = f"{field}: it names a page, and there is a pages field too. Send one of them."
        raise InvalidRequestError("invalid_request", message, param=field, document_index=index)
    return DocumentReference(field=field, id=found[1], pages=found[2] or document.pages)


def _from_multipart(body: Sequence[bytes], content_type: str, max_files: int, path_id: str | None) -> Submission:
    parts = parse_multipart(body, content_type)
    files = [part for part in parts if part.file_name is not None]
    _check_file_names(files)
    check_document_count(len(files), max_files)
    if not files and path_id is None:
        raise InvalidRequestError("invalid_request", "file: no document was sent; add a file part.", param="file")
    repeated, options = _form_fields([part for part in parts if part.file_name is None])
    documents: tuple[SubmittedDocument | DocumentReference, ...]
    documents = _file_documents(files, repeated) if files else (_only_reference(path_id, repeated),)
    return Submission(options=options, documents=documents, warnings=_warnings(list(options.ignored_fields())))


def _file_documents(files: Sequence[Part], repeated: Mapping[str, Sequence[str]]) -> tuple[SubmittedDocument, ...]:
    for name, values in repeated.items():
        if len(values) > len(files):
            message = f"{name}: {len(values)} fields for {len(files)} file parts; send one a file, in the same order."
            raise InvalidRequestError("invalid_request", message, param=name)
    return tuple(
        _file_document(index, part, _nth(repeated["id"], index), _nth(repeated["pages"], index))
        for index, part in enumerate(files)
    )


def _only_reference(path_id: str | None, repeated: Mapping[str, Sequence[str]]) -> DocumentReference:
    assert path_id is not None, "a form without files is read only where the path names a document"
    if repeated["id"] or len(repeated["pages"]) > 1:
        name = "id" if repeated["id"] else "pages"
        message = (
            f"{name}: without file parts the document of the path is ranked; send one pages field at most, and no id."
        )
        raise InvalidRequestError("invalid_request", message, param=name)
    return _path_reference(path_id, _nth(repeated["pages"], 0) or None)


def _check_file_names(files: Sequence[Part]) -> None:
    for part in files:
        if part.name != "file":
            raise InvalidRequestError(
                "invalid_request", "A file part has another name than 'file'; rename it.", param="file"
            )


def _form_fields(parts: Sequence[Part]) -> tuple[dict[str, list[str]], RerankInput]:
    """The fields that repeat once a file, and all others as options."""
    repeated: dict[str, list[str]] = {name: [] for name in _REPEATED_FIELDS}
    single: dict[str, Any] = {}
    for part in parts:
        if part.name in repeated:
            repeated[part.name].append(part.text)
        elif part.name in single:
            raise MalformedBodyError("malformed_multipart", "A form field other than id and pages is sent twice.")
        else:
            single[part.name] = parse_options(part.text) if part.name == "ziprerank" else part.text
    # An empty number or switch in a form is a field left blank.
    blank = [name for name, value in single.items() if value == "" and name != "query"]
    return repeated, parse_fields({name: value for name, value in single.items() if name not in blank})


def _file_document(index: int, part: Part, label: str, pages: str) -> SubmittedDocument:
    if len(label) > _LABEL_LENGTH:
        message = f"id: {len(label)} characters and the limit is {_LABEL_LENGTH}. Send a shorter one."
        raise InvalidRequestError("invalid_request", message, param="id", document_index=index)
    file_name = PurePosixPath((part.file_name or "").replace("\\", "/")).name[:_LABEL_LENGTH]
    return SubmittedDocument(
        field=f"file[{index}]",
        content=part.data,
        kind="image" if part.content_type.startswith("image/") else None,
        pages=pages or None,
        label=label or file_name or f"document-{index}",
    )


def _nth(values: Sequence[str], index: int) -> str:
    return values[index] if index < len(values) else ""


def _warnings(ignored: list[str], most: int = 10) -> tuple[str, ...]:
    """One warning for the fields that have no meaning here."""
    if not ignored:
        return ()
    more = f" and {len(ignored) - most} more" if len(ignored) > most else ""
    return (f"ignored fields: {', '.join(ignored[:most])}{more}",)
