"""Writes errors.md of this folder from the codes and their meanings in the service.

    python -m docs.write_errors

A test compares the two (tests/service/test_error_page.py).
"""

import json
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from service.dialects.error_bodies import ErrorBody, error_body, write_error
from service.error_meanings import FRAMEWORK_CODES, MEANINGS, Retry
from service.errors import (
    InvalidRequestError,
    ServiceError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnusableDocumentError,
)

PAGE = Path(__file__).with_name("errors.md")

_RETRIES: dict[Retry, str] = {"no": "no", "same": "yes", "other": "yes, to another replica"}

_EXAMPLES: dict[int, ErrorBody] = {
    body["status"]: body
    for body in (
        write_error(error, request_id="3f6c1f0a", query=None)
        for error in (
            InvalidRequestError(
                "invalid_request",
                "ziprerank.keep_ratio: send a number that is at most 1.",
                param="ziprerank.keep_ratio",
            ),
            UnauthorizedError(
                "unauthorized", "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            ),
            TooLargeError(
                "body_too_large",
                "The body has 40000000 bytes, and the limit is 33554432. Send fewer pages or smaller images.",
            ),
            UnusableDocumentError(
                "page_unreadable",
                "the page cannot be read. Re-save the PDF, or leave the page out by a page selection.",
                document_index=3,
                page=7,
            ),
            UnavailableError("queue_timeout", "The request waited over 10 s for the device. Try again later."),
        )
    )
}
"""Bodies with real messages, for statuses whose members differ. Other statuses show the sentence of their first code."""

_HEAD = """\
<!-- Written by `python -m docs.write_errors` from service/errors.py and service/error_meanings.py: change those. -->

# Errors

Every error has a status, a `code` from the closed list below, and a message that gives the value, the limit and the remedy.
Programs should read `code`; messages may change. `document_index` (from 0) and `page` (from 1) name the place where it is
known; the message names it as the client's own format does. A message never holds text of a library, an address in memory or
content of a document.

The body below is the one of the service's own format. It has the members that clients of problem+json, Cohere and OpenAI
read; other formats have their own bodies with the same status and message. `Retry-After` comes with 429 and 503: send the
request again after so many seconds. "no" under *again?* means that the same request will fail again: change it first.

With `"ziprerank": {"on_document_error": "skip"}` the errors of single documents are in `errors` of an answer with status 200.

A client that disconnects before its answer gets none. Such requests are counted and logged with the status 499.
"""


def codes_by_status() -> dict[int, list[str]]:
    """All codes, in the order of statuses and of the alphabet."""
    pairs = [(kind.status, code) for kind in ServiceError.__subclasses__() for code in kind.codes]
    pairs += [(status, code) for code, status in FRAMEWORK_CODES.items()]
    statuses: dict[int, list[str]] = {}
    for status, code in sorted(pairs):
        statuses.setdefault(status, []).append(code)
    return statuses


def error_page() -> str:
    """The page. Raises: KeyError where a code has no meaning yet."""
    return "\n".join([_HEAD, *(line for item in codes_by_status().items() for line in _section(*item))])


def _section(status: int, codes: list[str]) -> Iterator[str]:
    yield f"## {status} {HTTPStatus(status).phrase}\n"
    yield "| code | when | again? |"
    yield "| --- | --- | --- |"
    yield from (f"| `{code}` | {MEANINGS[code].when} | {_RETRIES[MEANINGS[code].retry]} |" for code in codes)
    yield ""
    code = codes[0]
    example = _EXAMPLES.get(status) or error_body(status, code, MEANINGS[code].when, request_id="3f6c1f0a")
    yield f"```json\n{json.dumps(example)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(error_page())
