"""The forms in which clients of other rerank APIs send one document, brought into one: an object with image, pdf or id.

    object with `pdf`, `image` or `id`      as sent; a text beside a page is ignored, with a warning unless it is empty
    object with `content`, `image_url`      its one image or PDF, as vLLM, SGLang and OpenAI write them; also `url`, and a
                                            bare list of content parts
    object with `type`, `format`, `value`   Elastic's image
    string `ziprerank://ID`                 a registered document; with `#page=3` one page of it
    string that is a data URI               image or PDF; `#page=3` or `#pages=1-3,7` behind the base64 selects pages
    string that is base64                   image or PDF, where it begins like a PDF, PNG, JPEG, WebP, GIF or TIFF
    string that is a JSON object            that object, where it has `image` or `pdf` as a data URI or base64

Plain text cannot be ranked yet, and URLs are not fetched: both are refused. Source of the forms: the clients' own code.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REFERENCE_SCHEME = "ziprerank://"

_MEDIA_HEAD = re.compile(r"data:(image/|application/pdf)", re.IGNORECASE)
_FRAGMENT = re.compile(r"#pages?=([0-9, \-]{1,200})$")
_LONGEST_FRAGMENT = 220
_BASE64_BEGINNINGS = {
    "JVBERi0": "pdf",
    "iVBORw0KGgo": "image",  # PNG
    "/9j/": "image",  # JPEG
    "UklGR": "image",  # WebP
    "R0lGOD": "image",  # GIF
    "SUkqA": "image",  # TIFF, little-endian
    "TU0AKg": "image",  # TIFF, big-endian
}
_SHORTEST_BASE64 = 32
_URL = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
_LONGEST_URL = 8192
_OBJECT_KEYS = ("pdf", "image", "id")
_NO_TEXT = (
    "plain text cannot be ranked; send a page: a data URI, base64, an object such as "
    '{"pdf": "<base64>", "pages": "1-3"}, or ziprerank:// and the id of a registered document'
)
_NO_URL = "URLs are not fetched; send the document itself, as a data URI or base64"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadForm:
    """A document in the one form."""

    fields: Mapping[str, Any]  # image, pdf, id, pages, and further fields of the client's object
    is_string: bool = False  # sent as a string: such clients expect one result for each document
    notes: tuple[str, ...] = field(default=())  # for the answer's warnings, such as an ignored text


def read_form_of(value: Any) -> ReadForm:
    """The document in the one form. Raises: ValueError with the reason."""
    if isinstance(value, str):
        return _read_string(value)
    if isinstance(value, list):
        return _read_parts(value, {})
    if isinstance(value, dict):
        return _read_object(value)
    raise ValueError('send an object such as {"pdf": "<base64>", "pages": "1-3"} or {"image": "<base64>"}')


def _read_string(text: str) -> ReadForm:
    if text.startswith(REFERENCE_SCHEME):
        return ReadForm(fields={"id": text.removeprefix(REFERENCE_SCHEME)}, is_string=True)
    if media := _read_media(text):
        return ReadForm(fields=media, is_string=True)
    if text.lstrip()[:1] == "{" and (media := _read_json(text)):
        return ReadForm(fields=media, is_string=True)
    raise ValueError(_NO_URL if len(text) < _LONGEST_URL and _URL.fullmatch(text) else _NO_TEXT)


def _read_media(text: str) -> dict[str, Any] | None:
    """The fields of a data URI or of base64 with a known beginning; None for any other string."""
    if head := _MEDIA_HEAD.match(text):
        kind = "pdf" if head[1].lower() == "application/pdf" else "image"
    elif len(text) >= _SHORTEST_BASE64:
        kind = next((kind for beginning, kind in _BASE64_BEGINNINGS.items() if text.startswith(beginning)), "")
    else:
        kind = ""
    if not kind:
        return None
    fragment = _FRAGMENT.search(text, max(0, len(text) - _LONGEST_FRAGMENT))
    return {kind: text[: fragment.start()], "pages": fragment[1]} if fragment else {kind: text}


def _read_json(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return (
        value
        if any(isinstance(value.get(kind), str) and _read_media(value[kind]) for kind in ("image", "pdf"))
        else None
    )


def _read_object(value: dict[str, Any]) -> ReadForm:
    if any(value.get(key) is not None for key in _OBJECT_KEYS):
        text = value.get("text")
        if not isinstance(text, str) or (value.get("image") is None and value.get("pdf") is None):
            return ReadForm(fields=value)
        fields = {name: inner for name, inner in value.items() if name != "text"}
        return ReadForm(fields=fields, notes=("a text beside a page was not looked at",) if text.strip() else ())
    rest = {
        name: inner
        for name, inner in value.items()
        if name not in ("content", "image_url", "url", "type", "format", "value")
    }
    if "content" in value:
        content = value["content"]
        return _read_parts(content if isinstance(content, list) else [{"type": "text", "text": content}], rest)
    for name in ("image_url", "url"):
        if name in value:
            return ReadForm(fields={**rest, **_media_of_url(value[name])})
    if value.get("type") == "text":
        raise ValueError(_NO_TEXT)
    if "value" in value:
        return ReadForm(fields={**rest, **_media_of_url(value["value"])})
    if isinstance(value.get("text"), str):
        raise ValueError(_NO_TEXT)
    return ReadForm(fields=value)


def _read_parts(parts: list[Any], rest: Mapping[str, Any]) -> ReadForm:
    """The one image or PDF among the parts; texts beside it are ignored with a warning."""
    media: list[dict[str, Any]] = []
    has_text = False
    for part in parts:
        if not isinstance(part, dict):
            raise ValueError(
                'each part of content is an object such as {"type": "image_url", "image_url": {"url": "data:…"}}'
            )
        if "text" in part:
            has_text = has_text or bool(str(part["text"] or "").strip())
        else:
            media.append(
                _media_of_url(
                    next((part[name] for name in ("image_url", "file", "image", "url") if name in part), None)
                )
            )
    if not media:
        raise ValueError(_NO_TEXT)
    if len(media) > 1:
        raise ValueError(f"content has {len(media)} images; send each as a document of its own")
    notes = ("a text beside a page was not looked at",) if has_text else ()
    return ReadForm(fields={**rest, **media[0]}, notes=notes)


def _media_of_url(url: Any) -> dict[str, Any]:
    """The fields of an image_url part's value: a string, or an object with `url` or `file_data`."""
    if isinstance(url, dict):
        url = url.get("url", url.get("file_data"))
    if not isinstance(url, str):
        raise ValueError("an image or a file is a data URI or base64")
    if media := _read_media(url):
        return media
    raise ValueError(
        _NO_URL if len(url) < _LONGEST_URL and _URL.fullmatch(url) else "an image or a file is a data URI or base64"
    )
