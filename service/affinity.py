"""Requests about one document should meet one replica, whose caches have its pages: the key, and the replica's name.

A load balancer hashes the key (the header, else the id in the path) and never reads a body. The service routes nothing: a
wrong key costs computing pages again, never a wrong answer. It only tells afterwards who answered what, in logs and spans.
"""

import hashlib
import re

from starlette.datastructures import Headers

AFFINITY_HEADER = "X-ZipRerank-Affinity"
REPLICA_HEADER = "X-ZipRerank-Replica"

_DOCUMENT_PATH = re.compile(r"(?:/v1)?/documents/([^/]+)(?:/rerank)?")
_DIGITS = 12


def affinity_mark(headers: Headers, path: str) -> str | None:
    """What stands for a request's key in logs and spans: the beginning of its SHA-256, as ids may be private. None: no key."""
    key = headers.get(AFFINITY_HEADER)
    if not key:
        in_path = _DOCUMENT_PATH.fullmatch(path)
        key = in_path[1] if in_path else None
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGITS] if key else None
