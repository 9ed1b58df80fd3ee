"""Bounds on JSON that are checked before anything is built from it: 30 MB of `[],` would become gigabytes of objects.

Works in steps of 256 KiB and stops at the first bound, so that no step holds the interpreter for more than a few milliseconds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import TooLargeError

MAX_VALUES = 200_000
"""Of all arrays and objects together: a hundred documents with an embedding of 1,536 numbers each have fewer."""

MAX_MEMBERS = 100_000
"""Of all objects together. A member costs the interpreter about ten times what a number in an array costs."""

MAX_TEXT_BYTES = 8 << 20
"""Of one string that has other characters than ASCII. Python stores all of a string as wide as its widest character; no text
of so many characters fits the pages of a document, and base64 is ASCII."""

_STEP = 256 * 1024
_PART_OF_ESCAPE = b"\\u00"
_WIDE_ESCAPE = re.compile(rb"\\u(?!00)")


def check_json(data: bytes) -> None:
    """Raises: TooLargeError where the JSON has too many values or members, or a text that is too long.

    Whether it is JSON is not checked. Strings are told from values only where the bytes alone do not show that all bounds hold.
    """
    if _has_few_values(data, MAX_MEMBERS) and not _may_have_wide_text(data):
        return
    scan = _Scan()
    for piece in _pieces_without_escapes(data):
        scan.add(piece)
        if scan.values > MAX_VALUES or scan.members > MAX_MEMBERS:
            message = (
                f"The body has over {MAX_VALUES} values, or over {MAX_MEMBERS} of them with a name, which is the limit. "
                "Leave out fields that are not needed, or send fewer documents."
            )
            raise TooLargeError("too_many_values", message)
        if scan.has_long_text:
            message = (
                f"A string of over {MAX_TEXT_BYTES} bytes, which is the limit, has characters that are not ASCII. "
                "Send the text in parts, or as a PDF."
            )
            raise TooLargeError("body_too_large", message)


def has_few_values(data: bytes, limit: int) -> bool:
    """Whether the JSON has at most so many values."""
    if _has_few_values(data, limit):
        return True
    scan = _Scan()
    for piece in _pieces_without_escapes(data):
        scan.add(piece)
        if scan.values > limit:
            return False
    return True


def _has_few_values(data: bytes, limit: int) -> bool:
    """Whether there are so few separators, also inside of strings, that there cannot be more values."""
    count = 1
    for start in range(0, len(data), _STEP):
        end = start + _STEP
        for separator in (b",", b"[", b"{"):
            first = data.find(separator, start, end)  # much faster than counting; base64 has none
            if first >= 0:
                count += data.count(separator, first, end)
        if count > limit:
            return False
    return True


def _may_have_wide_text(data: bytes) -> bool:
    if len(data) <= MAX_TEXT_BYTES:
        return False
    if not data.isascii():
        return True
    for start in range(0, len(data), _STEP):
        end = start + _STEP + len(_PART_OF_ESCAPE)
        if data.find(b"\\", start, end) >= 0 and _WIDE_ESCAPE.search(data, start, end):
            return True
    return False


def _pieces_without_escapes(data: bytes) -> Iterator[bytes]:
    """The JSON in pieces, with other characters in the place of escaped quotes and backslashes: each quote that is left begins
    or ends a string."""
    left = b""
    for start in range(0, len(data), _STEP):
        piece = left + data[start : start + _STEP]
        last = piece.rfind(b"\\", max(0, len(piece) - len(_PART_OF_ESCAPE)))
        backslashes = last + 1 - len(piece[: last + 1].rstrip(b"\\"))
        end = last if backslashes % 2 else len(piece)  # not in the middle of an escape
        left = piece[end:]
        yield piece[:end].replace(b"\\\\", b"__").replace(b'\\"', b"__")
    yield left


@dataclass(slots=True)
class _Scan:
    """Counts in the pieces so far. An array or object of n values has n - 1 commas."""

    values: int = 1
    members: int = 0
    has_long_text: bool = False
    _is_in_string: bool = False
    _text_bytes: int = 0  # of the string that the last piece ended in
    _is_wide: bool = False

    def add(self, piece: bytes) -> None:
        segments = piece.split(b'"')
        outside = b"".join(segments[self._is_in_string :: 2])
        self.values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        self.members += outside.count(b":")
        if self._is_in_string:
            self._continue_string(segments[0])
        self._is_in_string ^= len(segments) % 2 == 0
        if self._is_in_string and len(segments) > 1:
            self._text_bytes, self._is_wide = 0, False
            self._continue_string(segments[-1])

    def _continue_string(self, segment: bytes) -> None:
        """Strings within one piece are short."""
        self._text_bytes += len(segment)
        self._is_wide = self._is_wide or not segment.isascii() or _WIDE_ESCAPE.search(segment) is not None
        self.has_long_text = self.has_long_text or (self._is_wide and self._text_bytes > MAX_TEXT_BYTES)
