"""Admission: how many requests, and how many bytes of their bodies, are worked on at once, in all and by caller."""

from collections import Counter
from types import TracebackType

from starlette.datastructures import Headers

from service.errors import OverloadedError
from service.http.body import body_too_large
from service.lifecycle import Lifecycle
from service.records import Caller

_RETRY_AFTER_SECONDS = 1


class Permit:
    """A place for one request and the bytes of its body. Travels with the request; `release` gives both back."""

    def __init__(self, admission: "Admission", caller: Caller, body_bytes: int) -> None:
        self.caller = caller
        self.body_bytes = body_bytes
        self._admission = admission
        self._is_released = False

    def release(self) -> None:
        """Give place and bytes back. Further calls have no effect."""
        if not self._is_released:
            self._is_released = True
            self._admission.take_back(self)

    def __enter__(self) -> "Permit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Gives out permits within the limits. Belongs to the event loop."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        max_body_bytes: int,
        max_concurrent_requests: int,
        max_in_flight_bytes: int,
    ) -> None:
        self._lifecycle = lifecycle
        self._max_body_bytes = max_body_bytes
        self._max_concurrent_requests = max_concurrent_requests
        self._max_in_flight_bytes = max_in_flight_bytes
        self.requests = 0  # permits that are out
        self.body_bytes = 0  # of all of them together
        self._requests_by_caller: Counter[str] = Counter()

    def admit(self, headers: Headers, caller: Caller) -> Permit:
        """A permit for the caller's request with these headers. A body of undeclared length counts as one of the largest size.

        Raises: UnavailableError where the service takes no requests; TooLargeError; OverloadedError.
        """
        self._lifecycle.check_accepting()
        declared = _declared_bytes(headers)
        body_bytes = self._max_body_bytes if declared is None else declared
        if body_bytes > self._max_body_bytes:
            raise body_too_large(body_bytes, self._max_body_bytes)
        if self.requests >= self._max_concurrent_requests:
            message = f"{self.requests} requests are being worked on, which is the limit. Try again later."
            raise OverloadedError("overloaded", message, retry_after_seconds=_RETRY_AFTER_SECONDS)
        own, own_limit = self._requests_by_caller[caller.id], caller.limits.max_concurrent_requests
        if own_limit is not None and own >= own_limit:
            message = f"{own} requests with this API key are being worked on, which is its limit. Try again later."
            raise OverloadedError("overloaded", message, retry_after_seconds=_RETRY_AFTER_SECONDS)
        if self.body_bytes + body_bytes > self._max_in_flight_bytes:
            message = (
                f"{self.body_bytes} bytes are in flight and the limit is {self._max_in_flight_bytes}. Try again later."
            )
            raise OverloadedError("overloaded", message, retry_after_seconds=_RETRY_AFTER_SECONDS)
        self.requests += 1
        self.body_bytes += body_bytes
        self._requests_by_caller[caller.id] += 1
        return Permit(self, caller, body_bytes)

    def take_back(self, permit: Permit) -> None:
        """Called by the permit, once."""
        self.requests -= 1
        self.body_bytes -= permit.body_bytes
        self._requests_by_caller[permit.caller.id] -= 1
        if not self._requests_by_caller[permit.caller.id]:
            del self._requests_by_caller[permit.caller.id]  # ids of unknown callers come from the network


def _declared_bytes(headers: Headers) -> int | None:
    """Length of the body by the headers; None where they do not declare it."""
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return 0  # there is no body
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None
