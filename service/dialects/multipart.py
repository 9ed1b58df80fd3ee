"""multipart/form-data to fields and files, with bounds on their number, names and headers.

Works in a thread on a body that is in memory and bounded, piece by piece: one call over tens of megabytes would hold the
interpreter, and with it the event loop. Knows nothing of reranking.  Format: RFC 7578.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.errors import MalformedBodyError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 4096
_MAX_HEADERS = 8
_MAX_HEADER_BYTES = 4096
_MAX_BOUNDARY_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One field (`file_name` None) or file."""

    name: str
    file_name: str | None
    content_type: str
    data: bytearray

    @property
    def text(self) -> str:
        """Raises: MalformedBodyError unless the part is UTF-8."""
        return _decoded(self.data, f"field {self.name!r}")


def parse_multipart(body: Sequence[bytes], content_type: str) -> list[Part]:
    """The parts in order. Raises: MalformedBodyError."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary or len(boundary) > _MAX_BOUNDARY_BYTES:
        raise MalformedBodyError("malformed_multipart", "The Content-Type needs a boundary of at most 256 bytes.")
    collector = _Collector()
    try:
        parser = python_multipart.MultipartParser(boundary, collector.callbacks())
        for piece in body:
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise MalformedBodyError("malformed_multipart", "The multipart body is not well-formed.") from error
    if not collector.ended:
        raise MalformedBodyError("malformed_multipart", "The multipart body is cut off before its closing boundary.")
    return collector.parts


@dataclass(slots=True)
class _Collector:
    """Gathers the parser's callbacks into parts."""

    parts: list[Part] = field(default_factory=list)
    ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _data: bytearray = field(default_factory=bytearray)

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(self._name, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(self._value, data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= _MAX_PARTS:
            raise MalformedBodyError("malformed_multipart", f"The body has more than {_MAX_PARTS} parts.")
        self._headers, self._data = {}, bytearray()

    def _grow(self, text: bytearray, piece: bytes) -> None:
        text += piece
        if len(text) > _MAX_HEADER_BYTES:
            raise MalformedBodyError("malformed_multipart", f"A part's header is over {_MAX_HEADER_BYTES} bytes.")

    def _end_header(self) -> None:
        if len(self._headers) >= _MAX_HEADERS:
            raise MalformedBodyError("malformed_multipart", f"A part has more than {_MAX_HEADERS} headers.")
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise MalformedBodyError("malformed_multipart", "A part has no name in its Content-Disposition.")
        file_name = options.get(b"filename")
        self.parts.append(
            Part(
                name=_decoded(options[b"name"], "a part's name"),
                file_name=None if file_name is None else _decoded(file_name, "a file name"),
                content_type=self._headers.get(b"content-type", b"").decode("latin-1").lower(),
                data=self._data,
            )
        )

    def _end(self) -> None:
        self.ended = True


def _decoded(data: bytes | bytearray, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBodyError("malformed_multipart", f"The multipart body: {what} is not UTF-8.") from error
