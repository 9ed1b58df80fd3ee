"""Reads files of JSON records (JSON lines or one JSON list), with the line number of each record.

An unusable record is logged and skipped, up to a limit on skipped records.
"""

import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.training.errors import DataError

logger = logging.getLogger(__name__)

Record = dict[str, Any]

_LIST_START = b"["
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NOT_AN_OBJECT = "it is not a JSON object"


class UnusableRecordError(Exception):
    """The reason for skipping one record. `SkipLog.at` catches it, so it never reaches the callers of a reader."""


class SkipLog:
    """Counts the skipped records of one file and logs the reason for each."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.skipped = 0
        self._limit = limit

    def skip(self, line_number: int, reason: str) -> None:
        """Count and log a skipped record. Raises: DataError if that makes more than the limit."""
        self.skipped += 1
        if self.skipped > self._limit:
            raise DataError(
                f"{self.path}:{line_number}: {reason}. {self.skipped} records cannot be used and the limit is {self._limit}. "
                "Correct the file, or allow more skipped records."
            )
        logger.warning("%s:%d: skipped: %s", self.path, line_number, reason)

    @contextmanager
    def at(self, line_number: int) -> Iterator[None]:
        """A context that skips the record on this line on UnusableRecordError. Raises: DataError as `skip` does."""
        try:
            yield
        except UnusableRecordError as error:
            self.skip(line_number, str(error))

    def finish(self, *, used: int) -> None:
        """Log the numbers of used and skipped records. Raises: DataError if none was used."""
        if not used:
            raise DataError(f"{self.path}: no record can be used; {self.skipped} were skipped.")
        level = logging.WARNING if self.skipped else logging.INFO
        logger.log(level, "%s: %d records used, %d skipped", self.path, used, self.skipped)


def read_records(path: Path, skips: SkipLog) -> Iterator[tuple[int, Record]]:
    """Yield the line number (from 1) and the JSON object of each record. Files that end in .gz are decompressed.

    A file that begins with `[` is read as one JSON list and held in memory; any other is read as JSON lines.
    Raises: DataError if the file cannot be read, if a list is malformed, or if too many records are no JSON objects.
    """
    try:
        yield from _list_items(path, skips) if _begins_with_list(path) else _line_items(path, skips)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}.") from error


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _begins_with_list(path: Path) -> bool:
    with _open(path) as file:
        beginnings = (line.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] for line in file)
        return next(filter(None, beginnings), b"") == _LIST_START


def _line_items(path: Path, skips: SkipLog) -> Iterator[tuple[int, Record]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            with skips.at(number):
                record = _parsed_line(line)
                yield number, record


def _parsed_line(line: bytes) -> Record:
    try:
        record = json.loads(line.removeprefix(_BYTE_ORDER_MARK))
    except (ValueError, RecursionError) as error:
        raise UnusableRecordError(_NOT_AN_OBJECT) from error
    if not isinstance(record, dict):
        raise UnusableRecordError(_NOT_AN_OBJECT)
    return record


def _list_items(path: Path, skips: SkipLog) -> Iterator[tuple[int, Record]]:
    """Parse the objects of the list one by one. Parsing it at once would double the memory and lose the line numbers."""
    text = _read_text(path)
    decoder, line, counted = json.JSONDecoder(), 1, 0
    position = _past_spaces(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            record, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{line}: the JSON list is malformed here. Correct the file.") from error
        if isinstance(record, dict):
            yield line, record
        else:
            skips.skip(line, _NOT_AN_OBJECT)
        position = _past_spaces(text, end)
        if text[position : position + 1] == ",":
            position = _past_spaces(text, position + 1)


def _read_text(path: Path) -> str:
    with _open(path) as file:
        data: bytes = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Convert the file.") from error


def _past_spaces(text: str, position: int) -> int:
    while text[position : position + 1] in {" ", "\n", "\r", "\t"}:
        position += 1
    return position


def text_field(record: Record, name: str) -> str:
    """The field as a text that is not blank. Raises: UnusableRecordError."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UnusableRecordError(f"`{name}` must be a text that is not blank")
    return value


def list_field(record: Record, name: str) -> list[Any]:
    """The field as a list. Raises: UnusableRecordError."""
    value = record.get(name)
    if not isinstance(value, list):
        raise UnusableRecordError(f"`{name}` must be a list")
    return value


def page_ids_field(record: Record, name: str) -> tuple[str, ...]:
    """The field as page ids without repeats; numbers are turned into texts. Raises: UnusableRecordError."""
    values = list_field(record, name)
    if not all(isinstance(value, int | str) and not isinstance(value, bool) for value in values):
        raise UnusableRecordError(f"`{name}` must hold only whole numbers or texts")
    page_ids = tuple(str(value) for value in values)
    if len(set(page_ids)) < len(page_ids):
        raise UnusableRecordError(f"`{name}` names a page twice")
    return page_ids
