"""A text and its metadata to a document of a rerank request."""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_IMAGE_BYTES = 32 << 20
_ADDRESSES = ("data:", "http://", "https://", "ziprerank://")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataNames:
    """Under which names metadata holds a page."""

    document_id: str = "ziprerank_id"  # of a registered document
    page: str = "page"
    image: str = "image"  # bytes, a data URI, an http(s) URL, or the path of a file
    first_page: int = 1  # the number of a document's first page there; 0 for loaders that count from 0


def to_document(text: str, metadata: Mapping[str, Any], names: MetadataNames) -> dict[str, str]:
    """The page of a registered document that the metadata names, else its image, else the text.

    Raises: ValueError for a page that is no number, and for an image that cannot be read.
    """
    document_id = metadata.get(names.document_id)
    if document_id:
        return {"id": _reference(str(document_id), metadata.get(names.page), names)}
    image = metadata.get(names.image)
    return {"text": text} if image is None else _image(image, names.image)


def _reference(document_id: str, page: Any, names: MetadataNames) -> str:
    if page is None:
        return document_id
    try:
        number = int(page) - names.first_page + 1
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ValueError(f"{names.page}: {page!r} is not a page; the first one is {names.first_page}.")
    return f"{document_id}#page={number}"


def _image(image: Any, name: str) -> dict[str, str]:
    if isinstance(image, bytes | bytearray | memoryview):
        return {"image": base64.b64encode(image).decode()}
    if not isinstance(image, str | os.PathLike):
        kind = type(image).__name__
        raise ValueError(f"{name}: {kind} is not an image; give bytes, a data URI, a URL or the path of a file.")
    if isinstance(image, str) and image.startswith(_ADDRESSES):
        return {"image": image}
    path = Path(image)
    try:
        if not path.is_file():
            raise ValueError(f"{name}: {_shortened(path)} is not a file.")
        if (size := path.stat().st_size) > _MAX_IMAGE_BYTES:
            raise ValueError(f"{name}: {_shortened(path)} has {size} bytes and the limit is {_MAX_IMAGE_BYTES}.")
        return {"image": base64.b64encode(path.read_bytes()).decode()}
    except OSError as error:
        raise ValueError(f"{name}: {_shortened(path)} cannot be read: {error.strerror}.") from error


def _shortened(path: Path) -> str:
    """For messages: base64 that was taken for a path may have megabytes."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:200]}…"
