"""Keeps what is sent to an endpoint below its limits by the minute.

Knows no HTTP. Requests are spread evenly instead of in bursts, so that every
stretch of a minute keeps the limit, not only the average.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

_MINUTE_SECONDS = 60.0


class RateLimit:
    """Tells each request when it may leave. For one event loop."""

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
        """Returns when the next request may leave. Requests leave in the order in which they came here."""
        now = self._clock()
        leaves_at = max(now, self._next_at)
        self._next_at = leaves_at + self._seconds_per_request
        if leaves_at > now:
            await self._sleep(leaves_at - now)

    def charge(self, tokens: int) -> None:
        """Hold later requests back for tokens that an answer has cost: they are known only once it is there."""
        self._next_at = max(self._clock(), self._next_at) + tokens * self._seconds_per_token
