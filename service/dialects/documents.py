"""The forms in which clients of rerank APIs send one document, brought into one: fields with a single source.

    object with `pdf` or `image`            media: a data URI, base64, `ziprerank://ID` or a URL; a text beside it is ignored,
                                            with a warning unless it is empty
    object with `id` alone                  a registered document; beside a source it is a label
    object with `content`, `image_url`      its one image or PDF, or its text, as vLLM, SGLang and OpenAI write them; also
                                            `url`, `file`, and a bare list of content parts
    object with `type`, `format`, `value`   Elastic's image or text
    object with `images`                    its one image, as Dify's plugin writes it beside a text
    object with `text`                      as a string, but with results of an object
    string `ziprerank://ID`                 a registered document; with `#page=3` one page of it
    string that is a data URI               media; `#page=3` or `#pages=1-3,7` behind the base64 selects pages
    string that is base64                   media, where it begins like a PDF, PNG, JPEG, WebP, GIF or TIFF
    string that is a JSON object            that object, where it has `image` or `pdf` as a data URI or base64
    string that is an http(s) URL           a URL, which is a text where URLs are not fetched
    any other string                        text

Source of the forms: the clients' own code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic_core import from_json

from service.dialects.json_bounds import has_few_values

REFERENCE_SCHEME = "ziprerank://"

Media = Literal["pdf", "image"]

_MEDIA_TYPE = re.compile(r"data:\s*(?:image/|(application/pdf))", re.IGNORECASE)
_DATA_URI = re.compile(r"data:", re.IGNORECASE)
_ENDS_AS_BASE64 = re.compile(r";\s*base64\s*\Z", re.IGNORECASE)
_LONGEST_END = 64  # characters of what is before the comma that are searched for `;base64`
_PDF_BEGINS = re.compile(r"\s*JVBERi0")
_FRAGMENT = re.compile(r"#pages?=([0-9, \-]{1,200})$")
_LONGEST_FRAGMENT = 220
_BASE64_BEGINNINGS: Mapping[str, Media] = {
    "JVBERi0": "pdf",
    "iVBORw0KGgo": "image",  # PNG
    "/9j/": "image",  # JPEG
    "_9j_": "image",  # JPEG, URL-safe
    "UklGR": "image",  # WebP
    "R0lGOD": "image",  # GIF
    "SUkqA": "image",  # TIFF, little-endian
    "TU0AKg": "image",  # TIFF, big-endian
}
_SHORTEST_BASE64 = 32
_BASE64_SAMPLE = 256  # characters at the beginning; checking 30 MB would hold the interpreter
_BASE64 = re.compile(r"[A-Za-z0-9+/_\r\n-]+={0,2}\s*")
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_LONGEST_URL = 8192
_MEDIA_KEYS = ('"image"', '"pdf"')
_MOST_VALUES = 10_000  # in a string that is a JSON object: a body may have a hundred of them
_URL_KEYS = ("image_url", "url", "file", "value")
_SOURCE_KEYS = frozenset({"pdf", "image", "images", "text", "content", "type", "format", *_URL_KEYS})
_NOT_LOOKED_AT = "a text beside a page was not looked at"
_NO_MEDIA = "an image or a file is a data URI, base64, a URL, or ziprerank:// and the id of a registered document"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadForm:
    """A document in the one form."""

    fields: Mapping[str, Any]  # one of image, pdf, text, url and id; pages; and further fields of the client's object
    is_string: bool = False  # sent as a string: such clients expect one result for each document
    notes: tuple[str, ...] = field(default=())  # for the answer's warnings, such as an ignored text


def read_form_of(value: Any) -> ReadForm:
    """The document in the one form. Raises: ValueError with the reason."""
    if isinstance(value, str):
        return replace(_read_string(value), is_string=True)
    if isinstance(value, list):
        return _read_parts(value, {})
    if isinstance(value, dict):
        return _read_object(value)
    raise ValueError('send a string, or an object such as {"text": "…"}, {"image": "<base64>"} or {"pdf": "<base64>"}')


def _read_string(text: str) -> ReadForm:
    if source := _read_source(text.strip() if len(text) < _LONGEST_URL else text):
        return source
    if text.lstrip()[:1] == "{" and (value := _read_json(text)):
        return _read_object(value)
    return ReadForm(fields={"text": text})


def _read_source(text: str) -> ReadForm | None:
    """A reference, media or a URL; None for any other string."""
    if text.startswith(REFERENCE_SCHEME):
        return ReadForm(fields={"id": text.removeprefix(REFERENCE_SCHEME)})
    if (kind := _media_kind(text)) is not None:
        address, pages = _without_fragment(text)
        return ReadForm(fields={kind: address, **pages})
    if len(text) < _LONGEST_URL and _URL.fullmatch(text):
        address, pages = _without_fragment(text)
        return ReadForm(fields={"url": address, **pages})
    return None


def _media_kind(text: str) -> Media | None:
    """Of a data URI, or of base64 with a known beginning; None for any other string.

    A data URI of another media type is media too, and never a text: it is refused, or taken by its first bytes.
    """
    if head := _MEDIA_TYPE.match(text):
        return "pdf" if head[1] else "image"
    if _DATA_URI.match(text):
        comma = text.find(",")
        if _ENDS_AS_BASE64.search(text, max(0, comma - _LONGEST_END), max(0, comma)):
            return "pdf" if _PDF_BEGINS.match(text, comma + 1) else "image"
        return None
    kind = next((kind for beginning, kind in _BASE64_BEGINNINGS.items() if text.startswith(beginning)), None)
    return kind if kind is not None and _begins_as_base64(text) else None


def _begins_as_base64(text: str) -> bool:
    """Whether no other character is among the first ones. The rest is checked when it is decoded."""
    sample = _without_fragment(text)[0][:_BASE64_SAMPLE]
    return len(sample) >= _SHORTEST_BASE64 and _BASE64.fullmatch(sample) is not None


def _without_fragment(text: str) -> tuple[str, dict[str, str]]:
    """The text less a page selection at its end, and that as the field `pages`."""
    fragment = _FRAGMENT.search(text, max(0, len(text) - _LONGEST_FRAGMENT))
    return (text[: fragment.start()], {"pages": fragment[1]}) if fragment else (text, {})


def _read_json(text: str) -> dict[str, Any] | None:
    """The JSON object in a string, where it has media."""
    if not any(key in text for key in _MEDIA_KEYS):
        return None
    data = text.encode(errors="surrogatepass")
    if not has_few_values(data, _MOST_VALUES):
        return None
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    media = [inner for key in ("image", "pdf") if isinstance(inner := value.get(key), str)]
    return value if any(_media_kind(inner) for inner in media) else None


def _read_object(value: Mapping[str, Any]) -> ReadForm:
    images = value.get("images")
    if isinstance(images, list) and images:
        return _read_object({**value, "images": None, "image": _only(images)})
    given = {name for name in _SOURCE_KEYS if value.get(name) is not None}
    rest = {name: inner for name, inner in value.items() if name not in _SOURCE_KEYS}
    if {"pdf", "image"} <= given:
        return ReadForm(fields=value)  # which is refused: they are two documents
    if given & {"pdf", "image"}:
        return _beside(_read_media(value, "pdf" if "pdf" in given else "image"), rest, text=value.get("text"))
    if "content" in given:
        content = value["content"]
        return _read_parts(content if isinstance(content, list) else [content], rest)
    if value.get("type") == "text" and "value" in given:
        return _beside(_read_text(value["value"]), rest)
    for name in _URL_KEYS:
        if name in given:
            return _beside(_read_address(value[name]), rest, text=value.get("text"))
    return _beside(_read_text(value["text"]), rest) if "text" in given else ReadForm(fields=rest)


def _read_media(value: Mapping[str, Any], kind: Media) -> ReadForm:
    """The media under `pdf` or `image`: the kind is the client's word, which the content must bear out."""
    content = value[kind]
    if isinstance(content, dict):
        return _read_address(content)
    if not isinstance(content, str):
        return ReadForm(fields={kind: content})  # which is refused by its type
    source = _read_source(content.strip() if len(content) < _LONGEST_URL else content)
    if source is not None and ("url" in source.fields or "id" in source.fields):
        return source
    content, pages = _without_fragment(content)
    return ReadForm(fields={kind: content, **pages})


def _read_text(text: Any) -> ReadForm:
    """A text in an object: the same strings are media or references there."""
    return _read_string(text) if isinstance(text, str) else ReadForm(fields={"text": text})


def _read_address(address: Any) -> ReadForm:
    """The value of an image_url or file part: a string, or an object with `url` or `file_data`."""
    if isinstance(address, dict):
        address = address.get("url", address.get("file_data"))
    source = (
        _read_source(address.strip() if len(address) < _LONGEST_URL else address) if isinstance(address, str) else None
    )
    if source is None:
        raise ValueError(_NO_MEDIA)
    return source


def _beside(form: ReadForm, rest: Mapping[str, Any], *, text: Any = None) -> ReadForm:
    """The form with the other fields of its object. text: beside a page, which the model does not take."""
    notes = (*form.notes, _NOT_LOOKED_AT) if isinstance(text, str) and text.strip() else form.notes
    return replace(form, fields={**rest, **form.fields}, notes=notes)


def _read_parts(parts: list[Any], rest: Mapping[str, Any]) -> ReadForm:
    """The one image or PDF among the parts, or their texts together."""
    media: list[ReadForm] = []
    texts: list[str] = []
    for part in parts:
        form = read_form_of(part)
        if "text" in form.fields:
            texts.append(str(form.fields["text"] or ""))
        else:
            media.append(form)
    only = _only(media) if media else None
    text = "\n".join(texts)
    return _beside(only, rest, text=text) if only else ReadForm(fields={**rest, "text": text})


def _only(images: list[Any]) -> Any:
    """Of a document. Raises: ValueError where there are more."""
    if len(images) > 1:
        raise ValueError(f"a document has {len(images)} images; send each as a document of its own")
    return images[0]
