"""The `RateLimit` headers of keys with limits, as draft-ietf-httpapi-ratelimit-headers writes them."""

import math

from service.http.admission import Admission
from service.inference.page_rates import PageRates
from service.records import Caller

RATE_LIMIT_HEADER = "RateLimit"
RATE_LIMIT_POLICY_HEADER = "RateLimit-Policy"

_WINDOW_SECONDS = 60


class RateLimits:
    """The rest of a key's limits. Belongs to the event loop."""

    def __init__(self, *, page_rates: PageRates, admission: Admission) -> None:
        self._page_rates = page_rates
        self._admission = admission

    def headers(self, caller: Caller) -> dict[str, str]:
        """Both headers, by their names; none where the key has no limits.

        r is the rest of the quota q, and t the seconds until all of it is there again.
        """
        policies: list[str] = []
        left: list[str] = []
        if (pages := caller.limits.max_pages_per_minute) is not None:
            pages_left = self._page_rates.left(caller)
            seconds = math.ceil((pages - pages_left) * _WINDOW_SECONDS / pages)
            policies.append(f'"pages";q={pages};w={_WINDOW_SECONDS}')
            left.append(f'"pages";r={math.floor(pages_left)};t={seconds}')
        if (requests := caller.limits.max_concurrent_requests) is not None:
            requests_left = max(0, requests - self._admission.requests_of(caller))
            policies.append(f'"requests";q={requests};qu="concurrent-requests"')
            left.append(f'"requests";r={requests_left}')
        if not policies:
            return {}
        return {RATE_LIMIT_POLICY_HEADER: ", ".join(policies), RATE_LIMIT_HEADER: ", ".join(left)}
