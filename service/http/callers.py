"""The caller of a request: its key is checked here, once, before anything that depends on the caller."""

import hashlib
import ipaddress
from typing import Literal

from starlette.datastructures import Headers

from service.api_keys import KeyRing
from service.errors import UnauthorizedError
from service.records import Caller, CallerLimits

_KEY_HEADERS = ("x-api-key", "api-key")
_ID_DIGITS = 12
_SHARED_TENANT = b""
_IPV6_NETWORK_BITS = 64  # a subscriber has at least so many addresses


class Callers:
    """Checks keys, and decides which callers share caches and registered documents, and which have one fair share together.

    keys: where none is required, every caller is accepted, because a gateway in front may check keys of its own.
    cache_scope: shared: all callers are one tenant; per_key: the callers of one key id are a tenant. Where no key is required,
    the callers of one key header are.
    """

    def __init__(self, *, keys: KeyRing, cache_scope: Literal["shared", "per_key"]) -> None:
        self._keys = keys
        self._cache_scope = cache_scope

    def identify(self, headers: Headers, address: str = "") -> Caller:
        """The caller by its key: `Authorization: Bearer KEY`, `Authorization: KEY`, `X-API-Key` or `api-key`.

        address: the client's, without its port; it tells callers without a key apart where shares are given out.

        Raises: UnauthorizedError.
        """
        sent = _sent_key(headers)
        if not self._keys.is_required:
            id = hashlib.sha256(sent.encode()).hexdigest()[:_ID_DIGITS] if sent else ""
            share_id = f"sent {id}" if sent else f"address {_network_of(address)}"
            return Caller(id=id, share_id=share_id, tenant=self._tenant(sent))
        key = self._keys.find(sent)
        if key is None:
            message = "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            raise UnauthorizedError("unauthorized", message, param="authorization")
        limits = CallerLimits(
            max_concurrent_requests=key.max_concurrent_requests,
            max_pages_per_minute=key.max_pages_per_minute,
            priority=key.priority,
        )
        return Caller(
            id=key.id, share_id=f"key {key.id}", is_known=True, tenant=self._tenant(f"key {key.id}"), limits=limits
        )

    def _tenant(self, name: str) -> bytes:
        return _SHARED_TENANT if self._cache_scope == "shared" else hashlib.sha256(name.encode()).digest()


def _network_of(address: str) -> str:
    """The address, or the network of an IPv6 address, of which one client can use any address."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address  # as a proxy's header wrote it
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_NETWORK_BITS), strict=False))


def _sent_key(headers: Headers) -> str:
    """The key in the first header that has one; empty without."""
    authorization = headers.get("authorization", "").strip()
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if authorization:
        return authorization
    return next((key for name in _KEY_HEADERS if (key := headers.get(name, "").strip())), "")
