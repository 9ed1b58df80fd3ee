"""How many pages a caller may rank in a minute: a bucket of tokens for each caller with a limit."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from service.errors import OverloadedError
from service.records import Caller

_MINUTE_SECONDS = 60.0
_MAX_CALLERS = 4096


class PageRates:
    """Used on the event loop. A caller may use a minute's pages at once, and then gets them back evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # pages left and when, by caller id

    def check(self, caller: Caller, pages: int) -> None:
        """Raises OverloadedError where `spend` would. Takes no page."""
        if (limit := caller.limits.max_pages_per_minute) is not None:
            _require(min(pages, limit), left=self.left(caller), limit=limit, pages=pages)

    def spend(self, caller: Caller, pages: int) -> None:
        """Take the pages of one request. A request with more pages than a full bucket takes all of it.

        Raises: OverloadedError where too few are left; then none are taken.
        """
        limit = caller.limits.max_pages_per_minute
        if limit is None:
            return
        wanted, left = min(pages, limit), self.left(caller)
        _require(wanted, left=left, limit=limit, pages=pages)
        self._buckets.pop(caller.id, None)
        self._buckets[caller.id] = (left - wanted, self._clock())
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)

    def left(self, caller: Caller) -> float:
        """Pages that the caller may rank now; infinite without a limit."""
        limit = caller.limits.max_pages_per_minute
        if limit is None:
            return math.inf
        left, since = self._buckets.get(caller.id, (float(limit), 0.0))
        return min(float(limit), left + (self._clock() - since) * limit / _MINUTE_SECONDS)


def _require(wanted: int, *, left: float, limit: int, pages: int) -> None:
    if wanted > left:
        message = f"{pages} pages are more than this API key may rank now; its limit is {limit} in a minute."
        retry_after_seconds = math.ceil((wanted - left) * _MINUTE_SECONDS / limit)
        raise OverloadedError("overloaded", message, retry_after_seconds=retry_after_seconds)
