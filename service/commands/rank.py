"""`ziprerank rank`: ranks the pages of files by a query, in this process or on a server, and prints a table or JSON.

Parses the arguments and picks the place. Modules that need torch are imported only where the ranking runs in this process.
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.progress import Progress
from service.commands.rank_job import ExitCode, RankError, RankJob, place_of
from service.commands.server_url import is_sendable_key, is_server_url
from service.settings import Settings

if TYPE_CHECKING:
    from service.commands.rank_server import Server
    from service.commands.rank_table import RankedRow

RANK_SETTINGS = ("model", "revision", "device", "keep_ratio")
"""Settings that are flags of `rank`; it reads the others from the environment."""

_LOCAL_FLAGS = ("model", "revision", "device")
_SERVER_FLAGS = ("api_key", "connect_seconds", "answer_seconds")
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 300.0

_DESCRIPTION = """\
Ranks the pages of PDFs and images by relevance to a query, best first.

Loads the model in this process, which takes the settings of `serve`: these flags and every ZIPRERANK_ variable. With --url
it sends the files to a server instead, and needs no model here. Scores compare within one answer only."""

_EXIT_CODES = """\
exit codes:
  0    ranked
  1    not ranked though documents and model were there, such as out of memory; or the pages could not be saved
  2    wrong usage, including a page that a document does not have
  3    a document cannot be read
  4    the model cannot be loaded
  5    the server refused the request, failed, or could not be reached
  130  interrupted

examples:
  ziprerank rank report.pdf minutes.pdf --query "revenue of the third quarter" --top-n 5
  ziprerank rank report.pdf scan.png --pages 1-20 --pages 1 --query revenue --save-pages best/
  ziprerank rank report.pdf --query revenue --url http://localhost:8000 --json"""


def add_rank_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    """Add `rank` to the program's commands; the flags of `RANK_SETTINGS` are left to the caller."""
    parser = commands.add_parser(
        "rank",
        help="rank the pages of files by a query",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="PDF, PNG, JPEG, WebP, TIFF, GIF or BMP")
    parser.add_argument("--query", required=True, metavar="Q", help="text by which the pages are ranked")
    parser.add_argument(
        "--pages",
        dest="selections",
        action="append",
        default=[],
        metavar="PAGES",
        help="page numbers such as 1-3,7 or 5-: given once for all files, or once a file in their order (1- is all pages)",
    )
    parser.add_argument(
        "--top-n", dest="max_results", type=_positive_count, metavar="N", help="pages to show (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print the answer of `POST /rerank` instead of a table")
    parser.add_argument(
        "--save-pages",
        type=Path,
        metavar="DIR",
        help="save the shown pages as PNG in this new or empty folder, named by rank, file and page",
    )
    server = parser.add_argument_group("on a server")
    server.add_argument("--url", metavar="URL", help="address of the server, such as http://localhost:8000")
    server.add_argument(
        "--api-key",
        metavar="KEY",
        help="its key; the variable ZIPRERANK_API_KEY hides it from other users of this machine",
    )
    server.add_argument(
        "--connect-seconds",
        type=_positive_seconds,
        metavar="S",
        help=f"longest time to connect (default: {_CONNECT_SECONDS:g})",
    )
    server.add_argument(
        "--answer-seconds",
        type=_positive_seconds,
        metavar="S",
        help=f"longest pause while files are sent, and longest wait for the answer (default: {_ANSWER_SECONDS:g})",
    )
    return parser


def run_rank(options: argparse.Namespace, settings: Settings) -> int:
    """Run the command that `add_rank_command` parsed. Returns the exit code of the process."""
    progress = Progress(sys.stderr)
    try:
        _rank(options, settings, progress)
    except RankError as error:
        return _end(progress, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _end(progress, "stopped.", ExitCode.INTERRUPTED)
    return ExitCode.RANKED


def _end(progress: Progress, sentence: str, exit_code: ExitCode) -> int:
    progress.clear()
    print(f"ziprerank: {sentence}", file=sys.stderr)
    return exit_code


def _rank(options: argparse.Namespace, settings: Settings, progress: Progress) -> None:
    """Raises: RankError."""
    job = _read_job(options, settings)
    server = _read_server(options, settings)
    if options.save_pages is not None:
        from service.commands.rank_pages import require_empty

        require_empty(options.save_pages)
    with contextlib.redirect_stdout(sys.stderr):  # output of libraries is not part of the answer
        answer = _answer(job, settings, server, progress)
    rows = _read_rows(answer, job, server)
    if options.save_pages is not None:
        from service.commands.rank_pages import save_ranked_pages

        save_ranked_pages(rows, job.files, options.save_pages, settings, progress)
    progress.clear()
    _print_answer(answer, rows, job, is_json=options.json)


def _answer(job: RankJob, settings: Settings, server: "Server | None", progress: Progress) -> Mapping[str, object]:
    if server is not None:
        from service.commands.rank_server import rank_on_server

        return rank_on_server(job, server, progress)
    progress.begin("starting")  # the import takes seconds
    from service.commands.rank_local import rank_in_this_process

    return rank_in_this_process(job, settings, progress)


def _read_rows(answer: Mapping[str, object], job: RankJob, server: "Server | None") -> "list[RankedRow]":
    from service.commands.rank_table import rows_of

    try:
        return rows_of(answer, len(job.files))
    except ValueError as error:
        assert server is not None, "an answer of this process has the form"
        sentence = f"{server.url} gave an answer that cannot be shown: {error}. Is it a ZipRerank service?"
        raise RankError(ExitCode.SERVER, sentence) from error


def _print_answer(answer: Mapping[str, object], rows: "list[RankedRow]", job: RankJob, *, is_json: bool) -> None:
    from service.commands.rank_table import as_table

    if is_json:
        print(json.dumps(answer, indent=2))
    else:
        print(as_table(rows, job.files, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    for row in rows:
        if row.is_degraded:
            place = place_of(job.files, row.document_index, row.page)
            print(f"ziprerank: {place}: parts of the page could not be drawn.", file=sys.stderr)


def _read_job(options: argparse.Namespace, settings: Settings) -> RankJob:
    """Raises: RankError."""
    files, selections = options.files, options.selections
    if len(selections) > 1 and len(selections) != len(files):
        raise RankError(
            ExitCode.USAGE,
            f"--pages: given {len(selections)} times for {len(files)} files. Give it once for all, or once a file.",
        )
    if len(selections) <= 1:
        selections = (selections or [None]) * len(files)
    return RankJob(
        files=tuple(files),
        selections=tuple(selections),
        query=options.query,
        keep_ratio=None if options.keep_ratio is None else settings.keep_ratio,
        max_results=options.max_results,
    )


def _read_server(options: argparse.Namespace, settings: Settings) -> "Server | None":
    """None: this process ranks. Raises: RankError."""
    excluded = _SERVER_FLAGS if options.url is None else _LOCAL_FLAGS
    for name in excluded:
        if getattr(options, name) is not None:
            relation = "needs" if options.url is None else "cannot be used with"
            raise RankError(ExitCode.USAGE, f"--{name.replace('_', '-')} {relation} --url.")
    if options.url is None:
        return None
    if not is_server_url(options.url):
        raise RankError(ExitCode.USAGE, "--url: give an address such as http://localhost:8000, and a key by --api-key.")
    api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
    if api_key is not None and not is_sendable_key(api_key):
        raise RankError(ExitCode.USAGE, "--api-key: a key has printable ASCII characters only.")
    from service.commands.rank_server import Server

    return Server(
        url=options.url.rstrip("/"),
        api_key=api_key,
        connect_seconds=options.connect_seconds or _CONNECT_SECONDS,
        answer_seconds=options.answer_seconds or _ANSWER_SECONDS,
    )


def _positive_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
