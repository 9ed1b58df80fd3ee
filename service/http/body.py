"""Reads a request's body into memory: its headers are checked first, then its size and time are limited.

The body stays in the pieces in which it arrived: joining tens of megabytes would hold up the event loop.
"""

import asyncio
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request

from service.dialects.body import JSON
from service.errors import MalformedBodyError, RequestTimeoutError, TooLargeError, UnsupportedMediaTypeError
from service.settings import Settings


def check_body_headers(headers: Headers, media_types: Sequence[str]) -> str:
    """The media type of a body, from its headers. media_types: those that are taken; image/* stands for all images.

    A body without a content type is JSON, where that is taken: the client of Weaviate's module names none.

    Raises: UnsupportedMediaTypeError.
    """
    if headers.get("content-encoding", "").lower() not in ("", "identity"):
        raise UnsupportedMediaTypeError(
            "unsupported_media_type", "Content-Encoding is set; send the body uncompressed.", param="content-encoding"
        )
    media_type = headers.get("content-type", JSON).partition(";")[0].strip().lower()
    for accepted in media_types:
        if media_type == accepted or (accepted.endswith("/*") and media_type.startswith(accepted[:-1])):
            return media_type
    *others, last = [accepted.replace("/*", "/…") for accepted in media_types]
    listed = f"{', '.join(others)} or {last}" if others else last
    raise UnsupportedMediaTypeError("unsupported_media_type", f"Content-Type must be {listed}.", param="content-type")


async def read_body(request: Request, settings: Settings) -> list[bytes]:
    """Raises: TooLargeError, RequestTimeoutError, MalformedBodyError; starlette's ClientDisconnect."""
    idle_seconds, total_seconds = settings.body_idle_seconds, settings.body_seconds
    chunks: list[bytes] = []
    received = 0
    now = asyncio.get_running_loop().time
    latest = now() + total_seconds
    try:
        async with asyncio.timeout_at(min(latest, now() + idle_seconds)) as patience:
            async for chunk in request.stream():
                patience.reschedule(min(latest, now() + idle_seconds))
                received += len(chunk)
                if received > settings.max_body_bytes:
                    raise body_too_large(received, settings.max_body_bytes)
                chunks.append(chunk)
    except TimeoutError:
        message = f"The body did not arrive in time ({idle_seconds:g} s without data, {total_seconds:g} s in all)."
        raise RequestTimeoutError("request_timeout", message) from None
    if not received:
        raise MalformedBodyError("malformed_body", "The body is empty; send JSON or multipart/form-data.")
    return chunks


def body_too_large(size: int, limit: int) -> TooLargeError:
    """The refusal for a body of `size` bytes, declared or received so far."""
    message = f"The body has {size} bytes or more and the limit is {limit}. Send fewer or smaller documents."
    return TooLargeError("body_too_large", message, param="content-length")
