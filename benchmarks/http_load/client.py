"""Sends requests and notes when: as fast as they are answered, or at given times whether they are answered or not.

In open loop a request's time counts from when it was due, not from when it was sent: a service that stalls makes its clients
wait, and a client that only then starts its clock would not see it ("coordinated omission").
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.http_load.corpus import HttpRequest

NO_ANSWER = "no_answer"
"""The code of a request whose connection broke."""

_REQUEST_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int  # 0 without an answer
    code: str | None  # of the error, None for an answer
    timings_ms: dict[str, float] = field(default_factory=dict)  # by stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A request and its reply; times in seconds since the run began."""

    due: float
    finished: float
    reply: Reply

    @property
    def latency(self) -> float:
        return self.finished - self.due

    @property
    def is_answered(self) -> bool:
        return self.reply.status == 200


Send = Callable[[HttpRequest], Awaitable[Reply]]
OnDone = Callable[[], object]


@asynccontextmanager
async def connect(url: str, *, key: str | None = None) -> Any:
    """A `Send` to the service at `url` over as many connections as it takes. key: of its API, where it needs one."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"X-API-Key": key} if key else {}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=_REQUEST_SECONDS) as client:
        yield lambda request: _send(client, request)


async def _send(client: httpx.AsyncClient, request: HttpRequest) -> Reply:
    try:
        response = await client.post("/rerank", content=request.body, headers={"Content-Type": request.content_type})
    except httpx.TransportError:
        return Reply(status=0, code=NO_ANSWER)
    body = response.json()
    if response.status_code != 200:
        return Reply(status=response.status_code, code=body["code"])
    return Reply(status=200, code=None, timings_ms=body["ziprerank"]["timings_ms"])


async def closed_loop(
    send: Send, requests: Iterator[HttpRequest], *, concurrency: int, count: int, on_done: OnDone
) -> list[Outcome]:
    """`count` requests, `concurrency` of them under way at any time: each client sends when it has its answer."""
    clock = _Clock()
    outcomes: list[Outcome] = []
    tickets = iter(range(count))

    async def work() -> None:
        for _ in tickets:
            outcomes.append(await clock.send(send, next(requests), due=clock.now()))
            on_done()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return outcomes


async def open_loop(
    send: Send, requests: Iterator[HttpRequest], *, arrivals: Sequence[float], on_done: OnDone
) -> list[Outcome]:
    """One request at each time of arrival (seconds from now)."""
    clock = _Clock()

    async def arrive(due: float) -> Outcome:
        outcome = await clock.send(send, next(requests), due=due)
        on_done()
        return outcome

    tasks = []
    for due in arrivals:
        await asyncio.sleep(max(0.0, due - clock.now()))
        tasks.append(asyncio.create_task(arrive(due)))
    return list(await asyncio.gather(*tasks))


class _Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._started

    async def send(self, send: Send, request: HttpRequest, *, due: float) -> Outcome:
        reply = await send(request)
        return Outcome(due=due, finished=self.now(), reply=reply)
