"""A client's JSON that does not fit a pydantic model: the first few faults, by field, as one sentence.

Values are quoted where they are numbers; a text that was sent never is.
"""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.errors import InvalidRequestError, MalformedBodyError

_MAX_FAULTS = 10
_MAX_NAME_LENGTH = 64


def to_service_error(error: ValidationError, *, within: str = "") -> MalformedBodyError | InvalidRequestError:
    """within: the field that was parsed, where it was not the whole body."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid" and not within:
        return MalformedBodyError("malformed_body", "The body is not valid JSON (UTF-8, one object).")
    field = within or (str(first["loc"][0]) if first["loc"] else None)
    return InvalidRequestError("invalid_request", _sentence(error, within), param=field and shortened(field))


def shortened(name: str) -> str:
    """A field name that a client chose, in bounded length."""
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"


def _sentence(error: ValidationError, within: str) -> str:
    faults = error.errors(include_url=False, include_context=False)
    clauses = [_clause(within, fault) for fault in faults[:_MAX_FAULTS]]
    if len(faults) > _MAX_FAULTS:
        clauses.append(f"and {len(faults) - _MAX_FAULTS} more")
    return "; ".join(clauses) + "."


def _clause(within: str, fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    value = fault["input"]
    is_number = isinstance(value, int | float) and abs(value) < 1e15
    return f"{_path(within, fault['loc'])}: {message}" + (f", got {value}" if is_number else "")


def _path(within: str, location: tuple[int | str, ...]) -> str:
    path = within
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{shortened(step)}" if path else shortened(step)
    return path or "body"
