"""Requests at times of chance until they are stopped, with the outcome of each."""

import asyncio
import time
from collections.abc import Iterator

from benchmarks.http_load.arrivals import poisson_arrivals
from benchmarks.http_load.client import Outcome, Send
from benchmarks.http_load.corpus import HttpRequest

_MOST_REQUESTS = 100_000


class Stream:
    """One caller's requests in open loop, `rate` of them a second on average. Times are in seconds since it was made."""

    def __init__(self, send: Send, requests: Iterator[HttpRequest], *, rate: float, seed: int) -> None:
        self.outcomes: list[Outcome] = []
        self._send = send
        self._requests = requests
        self._arrivals = poisson_arrivals(rate, _MOST_REQUESTS, seed=seed)
        self._started = time.perf_counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        return time.perf_counter() - self._started

    async def run(self, *, seconds: float) -> None:
        """Send what is due within so many seconds, and wait for the answers."""
        await self._send_until(seconds)
        await asyncio.gather(*self._tasks)

    async def run_until_cancelled(self) -> None:
        """Drops the requests under way in the end."""
        try:
            await self._send_until(float("inf"))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_until(self, seconds: float) -> None:
        for due in self._arrivals:
            if due > seconds:
                break
            await asyncio.sleep(max(0.0, due - self.now()))
            task = asyncio.create_task(self._send_one(due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_one(self, due: float) -> None:
        reply = await self._send(next(self._requests))
        self.outcomes.append(Outcome(due=due, finished=self.now(), reply=reply))
