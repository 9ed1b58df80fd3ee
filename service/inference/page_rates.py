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

    def spend(self, caller: Caller, pages: int) -> None:
        """Take the pages of one request. A request with more pages than a full bucket takes all of it.

        Raises: OverloadedError where too few are left; then none are taken.
        """
        limit = caller.limits.max_pages_per_minute
        if limit is None:
            return
        now = self._clock()
        left, since = self._buckets.pop(caller.id, (float(limit), now))
        left = min(float(limit), left + (now - since) * limit / _MINUTE_SECONDS)
        wanted = min(pages, limit)
        self._buckets[caller.id] = (left - wanted if wanted <= left else left, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        if wanted > left:
            message = f"{pages} pages are more than this API key may rank now; its limit is {limit} in a minute."
            retry_after_seconds = math.ceil((wanted - left) * _MINUTE_SECONDS / limit)
            raise OverloadedError("overloaded", message, retry_after_seconds=retry_after_seconds)
