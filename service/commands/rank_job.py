"""One call of `ziprerank rank`: its files and options, its exit codes, and the error that ends it with one of them."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from service.errors import InvalidRequestError, PageOutOfRangeError, ServiceError

USAGE_CODES = InvalidRequestError.codes | PageOutOfRangeError.codes
"""Error codes about the command's own arguments."""


class ExitCode(IntEnum):
    """Exit codes of `ziprerank rank`. They are documented in its help and in the README."""

    RANKED = 0
    NOT_RANKED = 1  # after the model was loaded, such as out of memory; or the pages could not be saved
    USAGE = 2  # as argparse
    DOCUMENT = 3  # a document cannot be read
    MODEL = 4  # the model cannot be loaded
    SERVER = 5  # the server refused the request, failed, or could not be reached
    INTERRUPTED = 130


class RankError(Exception):
    """The command cannot go on. `str` gives one sentence for standard error."""

    def __init__(self, exit_code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class RankJob:
    """The documents and the query."""

    files: tuple[Path, ...]
    selections: tuple[str | None, ...]  # of each file's pages, such as 1-3,7, unparsed; None: all
    query: str
    keep_ratio: float | None  # None: the configured share
    max_results: int | None  # None: all pages


def printable(file: Path) -> str:
    """The path for a terminal: characters that could control it, such as escapes, become question marks."""
    return "".join(character if character.isprintable() else "?" for character in str(file))


def file_size(file: Path) -> int:
    """In bytes. Raises: RankError for a path that is not a readable file."""
    try:
        status = file.stat()
    except OSError as error:
        raise unreadable_file(file, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise RankError(ExitCode.DOCUMENT, f"{printable(file)}: not a file.")
    return status.st_size


def unreadable_file(file: Path, error: OSError) -> RankError:
    """The error for a file that the system does not let us read."""
    return RankError(ExitCode.DOCUMENT, f"{printable(file)}: {error.strerror or 'it cannot be read'}.")


def place_of(files: Sequence[Path], document_index: int, page: int | None) -> str:
    """A document or one page of it (1-based), for messages."""
    name = printable(files[document_index])
    return name if page is None else f"{name}, page {page}"


def to_rank_error(error: ServiceError, files: Sequence[Path]) -> RankError:
    """The same error about files instead of documents of a query."""
    if error.document_index is not None:
        place = place_of(files, error.document_index, error.page)
        place += ", --pages" if error.field == "pages" else ""
    else:
        place = "--query" if error.field == "query" else ""
    if error.code in USAGE_CODES:
        exit_code = ExitCode.USAGE
    else:
        exit_code = ExitCode.NOT_RANKED if error.document_index is None else ExitCode.DOCUMENT
    return RankError(exit_code, f"{place}: {error.message}" if place else error.message)
