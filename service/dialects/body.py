"""The body of a request, before a dialect reads it."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic_core import from_json

from service.errors import InvalidRequestError, MalformedBodyError

JSON, MULTIPART = "application/json", "multipart/form-data"

_PLACE = re.compile(r"at (line \d+ column \d+)$")


class RequestBody:
    """Bytes in the pieces in which they arrived. JSON is parsed once, whichever dialects look at it."""

    def __init__(self, pieces: Sequence[bytes], *, content_type: str) -> None:
        """content_type: the header; empty stands for JSON."""
        self.pieces = pieces
        self.content_type = content_type

    @property
    def is_json(self) -> bool:
        return self.content_type.partition(";")[0].strip().lower() in ("", JSON)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The members of the JSON object. Blocks for large bodies. Raises: MalformedBodyError, InvalidRequestError."""
        try:
            value = from_json(b"".join(self.pieces), allow_inf_nan=False, cache_strings="keys")
        except ValueError as error:
            found = _PLACE.search(str(error))
            where = f", {found[1]}" if found else ""
            raise MalformedBodyError(
                "malformed_body", f"The body is not valid JSON (UTF-8, one object){where}."
            ) from None
        if not isinstance(value, dict):
            raise InvalidRequestError("invalid_request", "body: send a JSON object.")
        return value
