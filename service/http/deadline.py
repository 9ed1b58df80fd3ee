"""Ends work for a request whose time is over or whose client has gone."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlineExceededError

Result = TypeVar("Result")


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
