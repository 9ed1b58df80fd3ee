"""Ends work for a request whose time is over or whose client has gone."""

import asyncio
import re
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlineExceededError, InvalidRequestError
from service.time_limits import MAX_TIMEOUT_MS, Degradation

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
DEGRADED_HEADER = "X-ZipRerank-Degraded"

_DIGITS = re.compile(r"[0-9]{1,15}")

Result = TypeVar("Result")


def timeout_of(headers: Headers) -> int | None:
    """The time in milliseconds that the request's header allows; None: it names none. Raises: InvalidRequestError."""
    sent = headers.get(TIMEOUT_HEADER)
    if sent is None:
        return None
    if not _DIGITS.fullmatch(sent) or not 1 <= int(sent) <= MAX_TIMEOUT_MS:
        message = f"{TIMEOUT_HEADER}: send whole milliseconds from 1 to {MAX_TIMEOUT_MS}, such as 500."
        raise InvalidRequestError("invalid_request", message, param=TIMEOUT_HEADER)
    return int(sent)


def degraded_header(degradation: Degradation) -> str:
    """The parts that were given up, such as `keep_ratio=0.31, ranked_pages=20/60`."""
    return ", ".join(
        f"{part.name}={part.got}/{part.wanted}" if isinstance(part.got, int) else f"{part.name}={part.got}"
        for part in degradation.given_up
    )


async def within(seconds: float, work: Awaitable[Result], *, remedy: str) -> Result:
    """The result of `work`, which is cancelled after so many seconds. remedy: a sentence that ends the error's message.

    Raises: the errors of `work`; DeadlineExceededError.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        message = f"The request took over {seconds:g} s. {remedy}"
        raise DeadlineExceededError("deadline_exceeded", message) from None


async def until_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client disconnects (servers do not do that by themselves).

    The body must have been read. Raises: the errors of `work`; ClientDisconnect.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Returns when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
