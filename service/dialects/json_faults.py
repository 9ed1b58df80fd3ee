"""Why a body is not JSON, and where: line, column and field, without a word of its content.

Lines and columns count from 1, columns in characters.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator

from pydantic_core import from_json

from service.dialects.faults import shortened

_PLACE = re.compile(r" at line (\d+) column (\d+)$")
_NAMED_VALUES = {
    b"NaN": "NaN is no JSON; send null or leave the field out",
    b"Infinity": "Infinity is no JSON; send null or leave the field out",
    b"-Infinity": "-Infinity is no JSON; send null or leave the field out",
    **{
        name: f"{name.decode()} is no JSON; send null or leave the field out"
        for name in (b"-NaN", b"nan", b"-nan", b"Inf", b"-Inf", b"inf", b"-inf")
    },
    b"None": "None is no JSON; send null",
    b"True": "True is no JSON; send true",
    b"False": "False is no JSON; send false",
    b"undefined": "undefined is no JSON; send null or leave the field out",
    b"'": "a string in single quotes; send double quotes",
}
_REASONS = {
    "trailing comma": "a comma without a value behind it",
    "EOF": "it ends too early",
    "trailing characters": "something follows its end",
    "key must be a string": "a key that is no string in double quotes",
    "expected `:`": "a colon is missing",
    "expected `,`": "a comma is missing",
    "expected value": "a value is missing or is no JSON",
    "invalid escape": "an escape that JSON does not have; a backslash is written \\\\",
    "invalid unicode": "a string that is not UTF-8",
    "recursion limit": "it is nested too deeply",
    "invalid number": "a number that is not written as in JSON",
}
_SURROGATE = "half of a surrogate pair (a \\u escape without its other half); send the whole character"
_IN_STRINGS = ("control character", "invalid escape", "invalid unicode", "EOF while parsing a string")
_HIGH, _LOW = re.compile(rb"\\u[dD][89abAB]"), re.compile(rb"\\u[dD][c-fC-F]")
_LONG = 65536  # bytes of a string of which only the beginning matters to a search for keys
_BEGINNING_KEPT = 64
_MOST_CHECKED = 4 << 20  # characters: a hostile body of millions of members would hold the interpreter for seconds


def json_fault(data: bytes, error: ValueError, *, what: str = "The body") -> str:
    """A sentence about the first fault. error: by `pydantic_core.from_json` about `data`. what: the first words."""
    found = _PLACE.search(str(error))
    if found is None:
        return f"{what} is not valid JSON."
    message = str(error)[: found.start()]
    place = _offset(data, int(found[1]), int(found[2]))
    reason, place, is_in_value = _reason(data, message, place)
    field = _field_at(data[:place]) if is_in_value else ""
    where = f"in line {data.count(10, 0, place) + 1} column {_column(data, place)}"
    return f"{what} is not valid JSON: {f'{field}: ' if field else ''}{reason}, {where}."


def repeated_key(data: bytes) -> str | None:
    """A key that an object of this JSON has twice, shortened; None also for JSON of more members than a request needs.

    data: valid JSON.
    """
    repeated: list[str] = []

    def note(members: list[tuple[str, object]]) -> None:
        if len(dict(members)) < len(members):
            counts = Counter(name for name, _ in members)
            repeated.extend(name for name, count in counts.items() if count > 1)

    text = b"".join(_without_long_strings(data)).decode()
    if len(text) > _MOST_CHECKED:
        return None
    json.loads(text, object_pairs_hook=note, parse_int=len, parse_float=len)
    return shortened(repeated[0]) if repeated else None


def _without_long_strings(data: bytes) -> Iterator[bytes]:
    """The JSON with the rest of long strings left out, as long as they are of letters without escapes.

    `json` would hold the interpreter for 30 ms over a document of 30 MB.
    """
    kept = place = 0
    while place < len(data):
        end = data.find(b'"', place)
        end = len(data) if end < 0 else end
        if end - place < _LONG:
            place += _LONG
            continue
        start = data.rfind(b'"', 0, place) + 1
        # Behind the end of a string are no letters, so this is inside of one.
        if start and data[start : start + 1].isalnum() and data.find(b"\\", start, end) < 0:
            yield data[kept : start + _BEGINNING_KEPT]
            kept = end
        place = end + 1
    yield data[kept:]


def _reason(data: bytes, message: str, place: int) -> tuple[str, int, bool]:
    """The reason in words, the place of its first byte, and whether that is inside of a member's value."""
    if (start := _lone_surrogate(data, message, place)) is not None:
        return _SURROGATE, start, True
    if message.startswith("expected ident") and data[place - 1 : place] == b"n":  # where null begins, or nan
        place -= 1
    if message.startswith(("expected value", "invalid number", "key must be", "expected ident")):
        place -= data[place - 1 : place] == b"-"
        for name, reason in _NAMED_VALUES.items():
            if data.startswith(name, place):
                return reason, place, False
    if message.startswith("control character"):
        written = {10: "\\n", 13: "\\r", 9: "\\t"}.get(data[place], "\\u00…")
        kind = "line break" if data[place] in (10, 13) else "control character"
        return f"a raw {kind} in a string; write it as {written}", place, True
    for beginning, reason in _REASONS.items():
        if message.startswith(beginning):
            return reason, place, message.startswith(_IN_STRINGS)
    return "it is not well-formed", place, False


def _lone_surrogate(data: bytes, message: str, place: int) -> int | None:
    """Where the escape begins; None for other faults. The parser reports the escape's last byte, or one behind it, or the
    same of the next escape."""
    if not message.startswith(("lone leading surrogate", "unexpected end of hex escape")):
        return None
    for start in (place - 11, place - 6, place - 5):
        if start >= 0 and (_HIGH.match(data, start) or (start == place - 5 and _LOW.match(data, start))):
            return start
    return None


def _offset(data: bytes, line: int, column: int) -> int:
    """The place of a column in bytes. Column 0 is the line break before."""
    start, end, left = 0, len(data), line - 1
    while left and end - start > 1:  # by halves: the place behind the line break
        middle = (start + end) // 2
        count = data.count(10, start, middle)
        if count >= left:
            end = middle
        else:
            start, left = middle, left - count
    line_start = start + 1 if left else start
    return max(0, min(line_start + column - 1, len(data)))


def _column(data: bytes, place: int) -> int:
    start = data.rfind(b"\n", 0, place) + 1
    return len(data[start:place].decode("utf-8", "replace")) + 1


def _field_at(beginning: bytes) -> str:
    """The field in whose value the JSON breaks off, such as `documents[1].text`; empty where there is none."""
    try:
        value = from_json(beginning, allow_partial="trailing-strings")
    except ValueError:
        return ""
    path = ""
    while value and isinstance(value, dict | list):
        if isinstance(value, list):
            path, value = f"{path}[{len(value) - 1}]", value[-1]
        else:
            name = next(reversed(value))
            path, value = f"{path}.{shortened(name)}" if path else shortened(name), value[name]
    return path
