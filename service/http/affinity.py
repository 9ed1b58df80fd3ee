"""Requests about one document should meet one replica, whose caches have its pages: the key, and the replica's name.

A load balancer hashes the key (the header, else the id in the path) and never reads a body. The service routes nothing: a
wrong key costs computing pages again, never a wrong answer. It only tells afterwards who answered what, in logs and spans.
"""

import hashlib

from starlette.datastructures import Headers

from service.http.route_table import find_document_id

AFFINITY_HEADER = "X-ZipRerank-Affinity"
REPLICA_HEADER = "X-ZipRerank-Replica"

_DIGITS = 12


def affinity_mark(headers: Headers, path: str) -> str | None:
    """What stands for a request's key in logs and spans: the beginning of its SHA-256, as ids may be private. None: no key."""
    key = headers.get(AFFINITY_HEADER)
    if not key:
        key = find_document_id(path)
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGITS] if key else None
