"""The caller of a request: its key is checked here, once, before anything that depends on the caller."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Literal

from starlette.datastructures import Headers

from service.errors import UnauthorizedError
from service.records import Caller

_ID_DIGITS = 12
_SHARED_TENANT = b""


class Callers:
    """Checks keys, and decides which callers share caches and registered documents.

    keys: accepted keys; without any, every caller is accepted, because a gateway in front may check keys of its own.
    cache_scope: shared: all callers are one tenant; per_key: each Authorization header is a tenant, and callers without a
    header are one.
    """

    def __init__(self, *, keys: Sequence[str], cache_scope: Literal["shared", "per_key"]) -> None:
        self._keys = tuple(key.encode() for key in keys)
        self._cache_scope = cache_scope

    def identify(self, headers: Headers) -> Caller:
        """The caller by its Authorization header. Raises: UnauthorizedError."""
        authorization = headers.get("authorization", "")
        scheme, _, credentials = authorization.partition(" ")
        key = credentials.strip()
        if self._keys and not (scheme.lower() == "bearer" and self._is_accepted(key)):
            message = "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            raise UnauthorizedError("unauthorized", message, param="authorization")
        # A part of the key's SHA-256 names it in log lines without giving it away.
        digits = hashlib.sha256((key or authorization).encode()).hexdigest()[:_ID_DIGITS]
        is_shared = self._cache_scope == "shared"
        return Caller(
            id=digits if authorization else "",
            tenant=_SHARED_TENANT if is_shared else hashlib.sha256(authorization.encode()).digest(),
        )

    def _is_accepted(self, sent: str) -> bool:
        """Compare with every key, each in constant time, so that the duration reveals no key."""
        matches = [hmac.compare_digest(sent.encode(), key) for key in self._keys]
        return any(matches)
