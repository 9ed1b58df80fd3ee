"""Keeps requests and tokens within the limits by the minute of an endpoint.

Requests are spread evenly rather than sent in bursts, so that every period of a minute keeps the limit, not only the average.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

_MINUTE_SECONDS = 60.0


class RateLimit:
    """Delays requests so that they keep the limits. Belongs to one event loop."""

    def __init__(
        self,
        requests_per_minute: float,
        *,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._seconds_per_request = _MINUTE_SECONDS / requests_per_minute
        self._seconds_per_token = _MINUTE_SECONDS / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next_at = clock()

    async def wait(self) -> None:
        """Wait until the request may be sent. Requests are released in the order of their calls."""
        now = self._clock()
        leaves_at = max(now, self._next_at)
        self._next_at = leaves_at + self._seconds_per_request
        if leaves_at > now:
            await self._sleep(leaves_at - now)

    def charge(self, tokens: int) -> None:
        """Delay later requests for the tokens of an answer, whose number is known only after it has arrived."""
        self._next_at = max(self._clock(), self._next_at) + tokens * self._seconds_per_token
