"""A request's body into memory, within its limits of size and time.

It stays in the pieces in which it arrived: joining tens of megabytes would hold up the event loop.
"""

import asyncio

from starlette.requests import Request

from service.errors import MalformedBodyError, RequestTimeoutError
from service.http.admission import body_too_large


async def read_body(request: Request, *, max_bytes: int, idle_seconds: float, total_seconds: float) -> list[bytes]:
    """Raises: TooLargeError, RequestTimeoutError, MalformedBodyError; starlette's ClientDisconnect."""
    chunks: list[bytes] = []
    received = 0
    now = asyncio.get_running_loop().time
    latest = now() + total_seconds
    try:
        async with asyncio.timeout_at(min(latest, now() + idle_seconds)) as patience:
            async for chunk in request.stream():
                patience.reschedule(min(latest, now() + idle_seconds))
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
