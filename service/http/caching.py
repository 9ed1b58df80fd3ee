"""Answers that a client may keep, and asks for again by their tag (RFC 9110, section 13.1.2)."""

import re

from starlette.datastructures import Headers

_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def cache_headers(tag: str) -> dict[str, str]:
    """The headers of such an answer. It is asked for again each time, because an id may get other bytes.

    tag: names the content; without quotes. Caches that several users share do not keep the answer.
    """
    return {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}


def is_known(headers: Headers, tag: str) -> bool:
    """Whether the request says that its client has the answer with this tag."""
    sent = headers.get("if-none-match", "")
    return sent.strip() == "*" or tag in _TAG.findall(sent)
