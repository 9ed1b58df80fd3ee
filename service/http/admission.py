"""Admission: how many bodies are received, and how many requests worked on, at once, with how many bytes; in all, by caller.

A request holds no place of work while its body arrives, so that senders that are slow, or pretend to be, keep none from others.
They take one of the places of the bodies being received instead, and the slowest of them loses it where these, or the bytes,
are full. Callers that hold less than an equal share find a reserve behind each limit: one caller cannot keep others out.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from starlette.datastructures import Headers

from service.errors import OverloadedError, TooLargeError
from service.lifecycle import Lifecycle
from service.records import Caller
from service.retry_after import retry_after

_RESERVED_PART = 4
"""A quarter of each limit is added to it for callers that hold no more than an equal share."""

_SHORTEST_SECONDS = 1e-3  # for rates
_SECONDS_MEMORY = 0.9  # weight of the past in the mean time of a request
_GRACE_SECONDS = 1.0
"""Nobody is called slow earlier: it takes round trips until a body flows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """Bytes and counts at once, each over all requests but for `max_body_bytes`."""

    max_body_bytes: int  # of one request
    max_concurrent_requests: int  # worked on
    max_receiving_requests: int  # whose body arrives
    max_in_flight_bytes: int  # received so far, of both together
    min_body_rate: int  # bytes a second; slower senders make room for others


@dataclass(slots=True, kw_only=True)
class _Share:
    """Places and bytes that the callers of one share_id hold."""

    working: int = 0
    receiving: int = 0
    body_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.working or self.receiving)


class Permit:
    """A request's places and bytes. Travels with the request; `release` gives all of them back."""

    def __init__(self, admission: "Admission", caller: Caller, started: float) -> None:
        self.caller = caller
        self.started = started
        self.body_bytes = 0  # received so far
        self.is_working = False
        self.is_evicted = False  # its place was given to another request while the body arrived
        self.on_eviction: Callable[[], None] = _nothing  # ends the receiving
        self._admission = admission
        self._is_released = False

    def receive(self, size: int) -> None:
        """Count bytes that have arrived. Raises: OverloadedError where they do not fit beside the other bodies."""
        self._admission.count_received(self, size)

    def begin_work(self) -> None:
        """Take a place of work, once the body is complete. Further calls have no effect.

        Raises: OverloadedError where all are taken.
        """
        if not self.is_working:
            self._admission.begin_work(self)

    def release(self) -> None:
        """Give places and bytes back. Further calls have no effect."""
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
        self, lifecycle: Lifecycle, limits: AdmissionLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lifecycle = lifecycle
        self._limits = limits
        self._clock = clock
        self.working = 0  # requests that have a place of work
        self.body_bytes = 0  # received so far by all permits that are out
        self._receiving: dict[Permit, None] = {}  # in the order of their beginning
        self._shares: dict[str, _Share] = {}
        self._requests_by_caller: Counter[str] = Counter()
        self._mean_seconds = 0.0  # from the permit to its end, of requests that were worked on

    def requests_of(self, caller: Caller) -> int:
        """Permits of the caller's key that are out."""
        return self._requests_by_caller.get(caller.id, 0)

    @property
    def receiving(self) -> int:
        """Requests whose body arrives."""
        return len(self._receiving)

    @property
    def requests(self) -> int:
        """Permits that are out."""
        return self.working + len(self._receiving)

    def admit(self, headers: Headers, caller: Caller, *, reads_body: bool = True) -> Permit:
        """A permit for the caller's request with these headers: to receive its body, or to work where it has none.

        A request that could not be worked on at the moment is refused here, before its body is sent.
        reads_body: False for routes that leave a body unread, which need a place of work at once.

        Raises: UnavailableError where the service takes no requests; TooLargeError; OverloadedError.
        """
        self._lifecycle.check_accepting()
        declared = _declared_bytes(headers)
        if declared is not None and declared > self._limits.max_body_bytes:
            raise body_too_large(declared, self._limits.max_body_bytes)
        own, own_limit = self._requests_by_caller[caller.id], caller.limits.max_concurrent_requests
        if own_limit is not None and own >= own_limit:
            raise self._overloaded(f"{own} requests with this API key are being worked on, which is its limit.")
        share = self._shares.get(caller.share_id) or _Share()
        self._require_work(share)
        permit = Permit(self, caller, self._clock())
        if reads_body and declared != 0:
            self._require_bytes(share, declared or 0, permit)
            self._require_receiving(share, permit)
            self._receiving[permit] = None
            share.receiving += 1
        else:
            self._begin_work(permit, share)
        self._shares[caller.share_id] = share
        self._requests_by_caller[caller.id] += 1
        return permit

    def count_received(self, permit: Permit, size: int) -> None:
        """Called by the permit. Raises: OverloadedError."""
        if permit.is_evicted:
            return
        share = self._shares[permit.caller.share_id]
        self._require_bytes(share, size, permit)
        self.body_bytes += size
        share.body_bytes += size
        permit.body_bytes += size

    def begin_work(self, permit: Permit) -> None:
        """Called by the permit, once. Raises: OverloadedError."""
        share = self._shares[permit.caller.share_id]
        self._require_work(share)
        del self._receiving[permit]
        share.receiving -= 1
        self._begin_work(permit, share)

    def take_back(self, permit: Permit) -> None:
        """Called by the permit, once."""
        share = self._shares[permit.caller.share_id]
        if permit.is_working:
            self.working -= 1
            share.working -= 1
            seconds, past = self._clock() - permit.started, self._mean_seconds
            self._mean_seconds = _SECONDS_MEMORY * past + (1 - _SECONDS_MEMORY) * seconds if past else seconds
        else:
            del self._receiving[permit]
            share.receiving -= 1
        self.body_bytes -= permit.body_bytes
        share.body_bytes -= permit.body_bytes
        if share.is_empty:  # ids of unknown callers come from the network
            del self._shares[permit.caller.share_id]
        self._requests_by_caller[permit.caller.id] -= 1
        if not self._requests_by_caller[permit.caller.id]:
            del self._requests_by_caller[permit.caller.id]

    def _begin_work(self, permit: Permit, share: _Share) -> None:
        permit.is_working = True
        self.working += 1
        share.working += 1

    def _require_work(self, share: _Share) -> None:
        limit = self._limits.max_concurrent_requests
        if self.working >= limit and self.working + 1 > self._limit_of(share, share.working, 1, limit):
            raise self._overloaded(f"{self.working} requests are being worked on, which is the limit.")

    def _require_receiving(self, share: _Share, newcomer: Permit) -> None:
        limit = self._limits.max_receiving_requests
        if self.receiving < limit or self.receiving + 1 <= self._limit_of(share, share.receiving, 1, limit):
            return
        most = limit / self._callers(share) if self._is_below_share(share, share.receiving, 1, limit) else math.inf
        if not self._evict(newcomer, lambda permit: self._share_of(permit).receiving > most):
            raise self._overloaded(f"The bodies of {self.receiving} requests are being received, which is the limit.")

    def _require_bytes(self, share: _Share, size: int, newcomer: Permit) -> None:
        limit = self._limits.max_in_flight_bytes
        if self.body_bytes + size <= limit:
            return
        most = limit / self._callers(share) if self._is_below_share(share, share.body_bytes, size, limit) else math.inf
        while self.body_bytes + size > self._limit_of(share, share.body_bytes, size, limit):
            if not self._evict(newcomer, lambda permit: self._share_of(permit).body_bytes > most, frees_bytes=True):
                raise self._overloaded(f"{self.body_bytes} bytes are in flight and the limit is {limit}.")

    def _overloaded(self, message: str) -> OverloadedError:
        """All requests that hold a place now have ended after about the time that a request takes."""
        seconds = retry_after(self._mean_seconds)
        return OverloadedError("overloaded", f"{message} Try again later.", retry_after_seconds=seconds)

    def _share_of(self, permit: Permit) -> _Share:
        return self._shares[permit.caller.share_id]

    def _callers(self, share: _Share) -> int:
        """The number of those that hold something, with the one of this share."""
        return len(self._shares) + share.is_empty

    def _is_below_share(self, share: _Share, held: int, more: int, limit: int) -> bool:
        """Whether with `more` it holds no more than an equal share of the limit, or holds nothing yet."""
        return not held or (held + more) * self._callers(share) <= limit

    def _limit_of(self, share: _Share, held: int, more: int, limit: int) -> int:
        return limit + limit // _RESERVED_PART if self._is_below_share(share, held, more, limit) else limit

    def _evict(self, newcomer: Permit, holds_too_much: Callable[[Permit], bool], *, frees_bytes: bool = False) -> bool:
        """Take the place of the slowest sender below the minimum rate, else of the slowest whose callers hold too much.

        Returns whether there was one. frees_bytes: leave out senders of whom nothing has arrived.
        """
        now = self._clock()
        candidates: list[tuple[bool, float, Permit]] = []
        for permit in self._receiving:
            if permit is newcomer or (frees_bytes and not permit.body_bytes):
                continue
            seconds = now - permit.started
            rate = permit.body_bytes / max(seconds, _SHORTEST_SECONDS)
            is_slow = seconds >= _GRACE_SECONDS and rate < self._limits.min_body_rate
            if is_slow or holds_too_much(permit):
                candidates.append((not is_slow, rate, permit))
        if not candidates:
            return False
        _, _, slowest = min(candidates, key=lambda candidate: candidate[:2])
        slowest.is_evicted = True
        slowest.release()
        slowest.on_eviction()
        return True


def body_too_large(size: int, limit: int) -> TooLargeError:
    """The refusal for a body of `size` bytes, declared or received so far."""
    message = f"The body has {size} bytes or more and the limit is {limit}. Send fewer or smaller documents."
    return TooLargeError("body_too_large", message, param="content-length")


def _nothing() -> None:
    """The `on_eviction` of a permit whose body is not being received yet."""


def _declared_bytes(headers: Headers) -> int | None:
    """Length of the body by the headers; None where they do not declare it."""
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return 0  # there is no body
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None
