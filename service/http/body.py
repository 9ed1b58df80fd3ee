"""Reads a request's body into memory: its headers are checked first, then its size and time are limited.

The body stays in the pieces in which it arrived: joining tens of megabytes would hold up the event loop.
"""

import asyncio
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request

from service.dialects.body import JSON
from service.errors import MalformedBodyError, RequestTimeoutError, UnsupportedMediaTypeError
from service.http.admission import Permit, body_too_large
from service.settings import Settings

_PIECE_BYTES = 16 * 1024


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
    """The body's pieces, with a place of work for the request once they are complete.

    Raises: TooLargeError, RequestTimeoutError, MalformedBodyError, OverloadedError; starlette's ClientDisconnect.
    """
    permit: Permit = request.state.permit
    idle_seconds, total_seconds = settings.body_idle_seconds, settings.body_seconds
    needed = settings.min_body_rate * idle_seconds  # bytes in each idle_seconds
    pieces: list[bytes] = []
    gathered = bytearray()  # small chunks: an object for each byte that drips in would be 40 times as large as the body
    received = counted = 0
    now = asyncio.get_running_loop().time
    latest = now() + total_seconds
    rate_deadline = now() + idle_seconds
    try:
        async with asyncio.timeout_at(min(latest, rate_deadline)) as patience:
            permit.on_eviction = lambda: patience.reschedule(now())
            async for chunk in request.stream():
                received += len(chunk)
                if received > settings.max_body_bytes:
                    raise body_too_large(received, settings.max_body_bytes)
                permit.receive(len(chunk))
                if received - counted >= needed:
                    counted, rate_deadline = received, now() + idle_seconds
                    patience.reschedule(min(latest, rate_deadline))
                if gathered or len(chunk) < _PIECE_BYTES:
                    gathered += chunk
                    if len(gathered) >= _PIECE_BYTES:
                        pieces.append(bytes(gathered))
                        gathered.clear()
                else:
                    pieces.append(chunk)
    except TimeoutError:
        raise _too_slow(settings, permit.is_evicted) from None
    if permit.is_evicted:
        raise _too_slow(settings, True)
    if not received:
        raise MalformedBodyError("malformed_body", "The body is empty; send JSON or multipart/form-data.")
    permit.begin_work()
    if gathered:
        pieces.append(bytes(gathered))
    return pieces


def _too_slow(settings: Settings, is_evicted: bool) -> RequestTimeoutError:
    idle_seconds, total_seconds = settings.body_idle_seconds, settings.body_seconds
    message = (
        "The body arrived so slowly that its place was given to another request. Send it faster, or try again later."
        if is_evicted
        else f"The body did not arrive in time ({settings.min_body_rate} bytes/s in each {idle_seconds:g} s, "
        f"{total_seconds:g} s in all). Send it faster, or fewer documents at once."
    )
    return RequestTimeoutError("request_timeout", message)
