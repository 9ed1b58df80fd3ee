"""The queue in front of the device: bounded in tokens, emptied in batches under two budgets.

No timer: whoever takes a batch gets what waits, and an idle device takes at once. Entries whose client has gone or whose time
is up are dropped as they are popped. Thread-safe; knows neither HTTP nor the model.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition

from model import PageScores, PreparedRequest
from service.errors import OverloadedError, UnavailableError

_RATE_MEMORY = 0.8  # weight of the past in the measured rate of tokens per second


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a queue entry's future resolves to."""

    scores: PageScores
    queue_seconds: float
    stage_seconds: dict[str, float]  # upload to language, of the whole batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One window of one request."""

    request: PreparedRequest
    future: "Future[Scored]" = field(default_factory=Future)
    queued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBudget:
    max_tokens: int  # language tokens after pruning
    max_patches: int  # vision patches
    queue_limit_tokens: int
    queue_seconds: float  # an entry that waited longer is not worth starting


class MicroBatcher:
    def __init__(
        self,
        budget: BatchBudget,
        *,
        on_cancelled: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._on_cancelled = on_cancelled
        self._clock = clock
        self._entries: deque[Entry] = deque()
        self._changed = Condition()
        self._closed = False
        self._tokens_per_second = 0.0
        self.waiting_tokens = 0
        self.waiting_pages = 0

    @property
    def waiting_entries(self) -> int:
        return len(self._entries)

    @property
    def estimated_wait_seconds(self) -> float:
        """Tokens waiting over the measured rate; 0 before the first measurement."""
        return self.waiting_tokens / self._tokens_per_second if self._tokens_per_second else 0.0

    def refuse_when_full(self) -> None:
        """Raises OverloadedError when nothing more would be admitted, so that no work is begun in vain."""
        if self.waiting_tokens >= self._budget.queue_limit_tokens:
            raise self._overloaded()

    def submit(self, request: PreparedRequest, *, admitted: bool = False) -> "Future[Scored]":
        """Queue one window. An empty queue takes any; `admitted` requests are not refused half-way through their windows.

        Raises: OverloadedError, UnavailableError once closed.
        """
        with self._changed:
            if self._closed:
                raise UnavailableError("draining", "The service is shutting down. Send the request to another replica.")
            too_much = self.waiting_tokens + request.token_count > self._budget.queue_limit_tokens
            if too_much and self._entries and not admitted:
                raise self._overloaded()
            now = self._clock()
            entry = Entry(request=request, queued_at=now, expires_at=now + self._budget.queue_seconds)
            self._entries.append(entry)
            self._count(entry, 1)
            self._changed.notify()
            return entry.future

    def take(self) -> list[Entry]:
        """Wait for work, then give the oldest entries that fit the budgets, at least one. Empty once closed and drained."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._entries or self._closed)
                batch = self._pop_batch()
                if batch or (self._closed and not self._entries):
                    return batch

    def record_rate(self, tokens: int, seconds: float) -> None:
        """Learn from a finished batch how fast the device is."""
        rate = tokens / max(seconds, 1e-6)
        past = self._tokens_per_second
        self._tokens_per_second = _RATE_MEMORY * past + (1 - _RATE_MEMORY) * rate if past else rate

    def close(self) -> None:
        """Admit nothing more; what waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fail_waiting(self, error: Exception) -> None:
        """Resolve everything that waits with `error`."""
        with self._changed:
            while self._entries:
                entry = self._pop()
                if entry.future.set_running_or_notify_cancel():
                    entry.future.set_exception(error)

    def _pop_batch(self) -> list[Entry]:
        batch: list[Entry] = []
        tokens = patches = 0
        while self._entries:
            request = self._entries[0].request
            tokens, patches = tokens + request.token_count, patches + request.patch_count
            if batch and (tokens > self._budget.max_tokens or patches > self._budget.max_patches):
                break
            entry = self._pop()
            if self._is_wanted(entry):
                batch.append(entry)
            else:
                tokens, patches = tokens - request.token_count, patches - request.patch_count
        return batch

    def _is_wanted(self, entry: Entry) -> bool:
        if not entry.future.set_running_or_notify_cancel():
            self._on_cancelled()
            return False
        if self._clock() > entry.expires_at:
            message = f"The request waited over {self._budget.queue_seconds:g} s for the device. Try again later."
            entry.future.set_exception(
                UnavailableError("queue_timeout", message, retry_after_seconds=self._retry_after_seconds())
            )
            return False
        return True

    def _pop(self) -> Entry:
        entry = self._entries.popleft()
        self._count(entry, -1)
        return entry

    def _count(self, entry: Entry, sign: int) -> None:
        self.waiting_tokens += sign * entry.request.token_count
        self.waiting_pages += sign * len(entry.request.pages)

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(
            "overloaded",
            f"{self.waiting_tokens} tokens are waiting and the limit is {self._budget.queue_limit_tokens}. Try again later.",
            retry_after_seconds=self._retry_after_seconds(),
        )

    def _retry_after_seconds(self) -> int:
        return min(5, max(1, math.ceil(self.estimated_wait_seconds)))
