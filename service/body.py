"""A request's body into memory, within its limits of size and time.

It stays in the pieces in which it arrived: joining tens of megabytes would hold up the event loop.
"""

import asyncio

from starlette.requests import Request

from service.access import body_too_large
from service.errors import MalformedBodyError, RequestTimeoutError


async def read_body(request: Request, *, max_bytes: int, idle_seconds: float, total_seconds: float) -> list[bytes]:
    """Raises: TooLargeError, RequestTimeoutError, MalformedBodyError; starlette's ClientDisconnect."""
    chunks: list[bytes] = []
    received = 0
    stream = aiter(request.stream())
    try:
        async with asyncio.timeout(total_seconds):
            while (chunk := await asyncio.wait_for(anext(stream, None), idle_seconds)) is not None:
                received += len(chunk)
                if received > max_bytes:
                    raise body_too_large(received, max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        message = f"The body did not arrive in time ({idle_seconds:g} s without data, {total_seconds:g} s in all)."
        raise RequestTimeoutError("request_timeout", message) from None
    if not received:
        raise MalformedBodyError("malformed_body", "The body is empty; send JSON or multipart/form-data.")
    return chunks
