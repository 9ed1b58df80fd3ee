"""Affinity: requests about one document should reach one replica, whose caches hold its pages.

A load balancer hashes the key (the header, else the id in the path) and never reads a body. The service does not route, and a
wrong key costs computing pages again but never changes an answer. Logs and spans say which replica answered which key.
"""

import hashlib

from starlette.datastructures import Headers

AFFINITY_HEADER = "X-ZipRerank-Affinity"
REPLICA_HEADER = "X-ZipRerank-Replica"

AFFINITY_PARAMETER = {
    "name": AFFINITY_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[ -~]*$"},
    "description": "id of the document (or of the collection) that the pages are from; requests with the same one meet the "
    f"same replica and its caches. The answer's {REPLICA_HEADER} names it. Never changes a score.",
}
"""Of the API description."""

_DIGITS = 12


def affinity_mark(headers: Headers, document_id: str | None) -> str | None:
    """The beginning of the SHA-256 of a request's key, for logs and spans, as ids may be private. None: no key.

    document_id: of the request's path.
    """
    key = headers.get(AFFINITY_HEADER) or document_id
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGITS] if key else None
