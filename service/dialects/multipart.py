"""multipart/form-data to fields and files, with bounds on their number, names and headers.

Works in a thread on a body that is in memory and bounded, piece by piece: one call over tens of megabytes would hold the
interpreter, and with it the event loop. Knows nothing of reranking.  Format: RFC 7578, and file names as senders also write
them: in the extended form of RFC 5987 (`filename*`), or in the words of RFC 2047 (.NET).
"""

import binascii
import email.errors
import email.header
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import python_multipart
from python_multipart.exceptions import FormParserError

from service.errors import MalformedBodyError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 4096
_MAX_HEADERS = 8
_MAX_HEADER_BYTES = 4096
_MAX_BOUNDARY_BYTES = 256
_MAX_PREAMBLE_BYTES = 65536
_FILE_TYPES = ("application/pdf", "image/")
_PARAMETER = re.compile(r';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;]*))', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')
_EXTENDED = re.compile(r"([A-Za-z0-9_-]+)'[^']*'(.*)", re.DOTALL)
_EXTENDED_CHARSETS = ("utf-8", "iso-8859-1")
_ENCODED_WORDS = re.compile(r"(?:=\?[^?\s]+\?[bqBQ]\?[^?\s]*\?=\s*)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One field or file. file_name: None where the sender gave none, as for most fields."""

    name: str
    file_name: str | None
    content_type: str
    data: bytearray

    @property
    def is_file(self) -> bool:
        """By its file name, which senders may leave out, else by the name of the field or its media type."""
        return self.file_name is not None or self.name == "file" or self.content_type.startswith(_FILE_TYPES)

    @property
    def text(self) -> str:
        """Raises: MalformedBodyError unless the part is UTF-8."""
        return _decoded(self.data, f"field {self.name!r}")


def parse_multipart(body: Sequence[bytes], content_type: str) -> list[Part]:
    """The parts in order. Raises: MalformedBodyError."""
    boundary = _parameters(content_type).get("boundary", "").encode("latin-1", "replace")
    if not boundary or len(boundary) > _MAX_BOUNDARY_BYTES:
        raise MalformedBodyError("malformed_multipart", "The Content-Type needs a boundary of at most 256 bytes.")
    collector = _Collector()
    try:
        parser = python_multipart.MultipartParser(boundary, collector.callbacks())
        for piece in _without_preamble(body, boundary):
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
        disposition = self._headers.get(b"content-disposition", b"")
        parameters = _parameters(disposition.decode("utf-8", "surrogateescape"))
        if "name" not in parameters:
            raise MalformedBodyError("malformed_multipart", "A part has no name in its Content-Disposition.")
        encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        if encoding in (b"base64", b"quoted-printable"):
            message = f"A part has the Content-Transfer-Encoding {encoding.decode()}. Send the bytes as they are."
            raise MalformedBodyError("malformed_multipart", message)
        self.parts.append(
            Part(
                name=_without_words(parameters["name"], "a part's name"),
                file_name=_file_name(parameters),
                content_type=self._headers.get(b"content-type", b"").decode("latin-1").lower(),
                data=self._data,
            )
        )

    def _end(self) -> None:
        self.ended = True


def _without_preamble(body: Sequence[bytes], boundary: bytes) -> Iterator[bytes]:
    """The pieces from the first boundary on; all of them where none is found among the first bytes."""
    delimiter = re.compile(rb"(?:\A|(?<=\r\n))--" + re.escape(boundary) + rb"(?=[ \t]*\r\n|--)")
    start, used = bytearray(), 0
    while used < len(body) and len(start) < _MAX_PREAMBLE_BYTES:
        start += body[used]
        used += 1
    found = delimiter.search(start)
    yield bytes(start[found.start() :] if found else start)
    yield from body[used:]


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a header's value by their names in lower case, without their quotes."""
    found: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value):
        found.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if quoted else plain.strip())
    return found


def _file_name(parameters: Mapping[str, str]) -> str | None:
    """The name in the extended form, which is the more exact one, else the plain one. Raises: MalformedBodyError."""
    plain, extended = parameters.get("filename"), parameters.get("filename*")
    if extended is not None:
        form = _EXTENDED.fullmatch(extended)
        if form is not None and form[1].lower() in _EXTENDED_CHARSETS:
            try:
                return urllib.parse.unquote(form[2], form[1], errors="strict")
            except UnicodeDecodeError:
                pass
        if plain is None:
            message = (
                "filename* of a part is not UTF-8''… or ISO-8859-1''… with percent-encoding. Send it so, or filename."
            )
            raise MalformedBodyError("malformed_multipart", message)
    return None if plain is None else _without_words(plain, "a file name")


def _without_words(text: str, what: str) -> str:
    """A name with its words of RFC 2047 decoded, where it is made of them. Raises: MalformedBodyError unless it is UTF-8."""
    if _ENCODED_WORDS.fullmatch(text):
        try:
            return str(email.header.make_header(email.header.decode_header(text)))
        except (LookupError, UnicodeDecodeError, email.errors.HeaderParseError, binascii.Error):
            return text
    return _decoded(text.encode("utf-8", "surrogateescape"), what)


def _decoded(data: bytes | bytearray, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBodyError("malformed_multipart", f"The multipart body: {what} is not UTF-8.") from error
