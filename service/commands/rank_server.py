"""Ranks files on a server, by one `POST /rerank`. HTTP from the standard library; proxies of the environment are not used."""

import http.client
import json
import re
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.commands.progress import Progress
from service.commands.rank_form import RerankForm, make_form
from service.commands.rank_job import USAGE_CODES, ExitCode, RankError, RankJob, place_of

_MAX_ANSWER_BYTES = 64 << 20
_MAX_SHOWN_CHARACTERS = 200  # of an answer that is not ours
_PLACE = re.compile(r"(?:documents|file)\[\d+\](\.pages)?(?:, page \d+)?: ")
"""The beginning of a message about a document, as the server names it. Group 1: it is about the page selection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server, and the patience with it."""

    url: str  # http or https; without /rerank
    api_key: str | None
    connect_seconds: float
    answer_seconds: float  # longest pause while the request is sent, and longest wait for the answer


def rank_on_server(job: RankJob, server: Server, progress: Progress) -> dict[str, Any]:
    """The answer's body. Raises: RankError."""
    form = make_form(job)
    try:
        with closing(_connect(server)) as connection:
            _send(connection, form, server, progress)
            response = connection.getresponse()
            body = response.read(_MAX_ANSWER_BYTES)
    except TimeoutError as error:
        sentence = f"{server.url} did not answer within {server.answer_seconds:g} s. Raise --answer-seconds."
        raise RankError(ExitCode.SERVER, sentence) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RankError(ExitCode.SERVER, f"{server.url}: the connection failed: {reason}.") from error
    if response.status != 200:
        raise _refusal(response, body, server, job.files)
    answer = _json_object(body)
    if answer is None:
        raise RankError(ExitCode.SERVER, f"{server.url} gave an answer that is not JSON; is it a ZipRerank service?")
    return answer


def _connect(server: Server) -> http.client.HTTPConnection:
    """Raises: RankError."""
    address = urlsplit(server.url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=server.connect_seconds)
    try:
        connection.connect()
    except OSError as error:
        is_late = isinstance(error, TimeoutError)
        reason = f"no connection within {server.connect_seconds:g} s" if is_late else error.strerror or str(error)
        raise RankError(ExitCode.SERVER, f"{server.url} cannot be reached: {reason}.") from error
    _socket_of(connection).settimeout(server.answer_seconds)
    return connection


def _socket_of(connection: http.client.HTTPConnection) -> socket.socket:
    opened: socket.socket = connection.sock
    return opened


def _send(connection: http.client.HTTPConnection, form: RerankForm, server: Server, progress: Progress) -> None:
    """Raises: OSError, RankError for a file that cannot be read."""
    connection.putrequest("POST", f"{urlsplit(server.url).path.rstrip('/')}/rerank")
    connection.putheader("Content-Type", form.content_type)
    connection.putheader("Content-Length", str(form.byte_count))
    connection.putheader("Accept", "application/json")
    if server.api_key is not None:
        connection.putheader("Authorization", f"Bearer {server.api_key}")
    connection.endheaders()
    progress.begin("sending documents", form.byte_count)
    for piece in form.pieces():
        try:
            connection.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            break  # a server that refuses a request, such as one that is too large, answers before it has read all of it
        progress.advance(len(piece))
    progress.begin(f"waiting for {server.url}")


def _refusal(response: http.client.HTTPResponse, body: bytes, server: Server, files: Sequence[Path]) -> RankError:
    error = _json_object(body) or {}
    message, index, page = error.get("message"), error.get("document_index"), error.get("page")
    if not isinstance(message, str):
        said = body.decode(errors="replace").strip().partition("\n")[0][:_MAX_SHOWN_CHARACTERS]
        location = response.headers.get("Location", "")
        more = f" It points to {location}." if location else f" {said}" if said else ""
        return RankError(ExitCode.SERVER, f"{server.url} answered {response.status} {response.reason}.{more}")
    is_usage = error.get("code") in USAGE_CODES
    if isinstance(index, int) and 0 <= index < len(files):
        place = place_of(files, index, page if isinstance(page, int) else None)
        found = _PLACE.match(message)
        place += ", --pages" if found and found[1] else ""
        exit_code = ExitCode.USAGE if is_usage else ExitCode.DOCUMENT
        return RankError(exit_code, f"{place}: {message[found.end() if found else 0 :]}")
    exit_code = ExitCode.USAGE if is_usage else ExitCode.SERVER
    return RankError(exit_code, f"{server.url} answered {response.status}: {message}")


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
