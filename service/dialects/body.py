"""The body of a request, before a dialect reads it."""

import codecs
import re
from functools import cached_property
from typing import Any

from pydantic_core import from_json

from service.dialects.json_bounds import check_json
from service.dialects.json_faults import json_fault, repeated_key
from service.errors import InvalidRequestError, MalformedBodyError

JSON, MULTIPART = "application/json", "multipart/form-data"

_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([\w-]+)""", re.IGNORECASE)
_UTF_16 = ("utf-16", "utf-16le", "utf-16be", "utf-16-le", "utf-16-be")
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class RequestBody:
    """Bytes in the pieces in which they arrived. JSON is parsed once, whichever dialects look at it."""

    def __init__(self, pieces: list[bytes], *, content_type: str) -> None:
        """pieces: joined in place where they are JSON, so that the body is in memory once.

        content_type: the header; empty stands for JSON.
        """
        self.pieces = pieces
        self.content_type = content_type

    @property
    def is_json(self) -> bool:
        return self.content_type.partition(";")[0].strip().lower() in ("", JSON)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The members of the JSON object. Blocks for large bodies.

        Raises: MalformedBodyError, TooLargeError, InvalidRequestError.
        """
        data = self._utf8()
        value = read_json(data)
        if not isinstance(value, dict):
            raise InvalidRequestError("invalid_request", "body: send a JSON object.")
        return value

    def _utf8(self) -> bytes:
        """The body in UTF-8 without byte order mark. Raises: MalformedBodyError."""
        self.pieces[:] = (b"".join(self.pieces),)
        data = self.pieces[0]
        charset = _CHARSET.search(self.content_type)
        if charset and (declared := charset[1].lower()) in _UTF_16:
            if declared == "utf-16" and data[:2] not in _UTF_16_MARKS:
                declared = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
            try:
                return data.decode(declared).removeprefix("\ufeff").encode()
            except UnicodeDecodeError:
                message = f"The body is not well-formed UTF-16, as the Content-Type says (charset={charset[1]})."
                raise MalformedBodyError("malformed_body", message) from None
        if data[:2] in _UTF_16_MARKS or b"\0" in data[:4]:
            message = "The body is not valid JSON: it is UTF-16. Send UTF-8, or charset=utf-16 in the Content-Type."
            raise MalformedBodyError("malformed_body", message)
        return data.removeprefix(codecs.BOM_UTF8)


def read_json(data: bytes, *, what: str = "The body") -> Any:
    """The value of a text of JSON in UTF-8. Blocks for large texts. what: the text's name, with which messages begin.

    Raises: MalformedBodyError, TooLargeError.
    """
    check_json(data)
    try:
        value = from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise MalformedBodyError("malformed_body", json_fault(data, error, what=what)) from None
    if (name := repeated_key(data)) is not None:
        message = f"{name}: a JSON object has this member twice. Send it once."
        raise MalformedBodyError("malformed_body", message, param=name)
    return value
