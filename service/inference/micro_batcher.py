"""The queue in front of the device: bounded in tokens, emptied in batches under two budgets, and behind it what may wait.

No timer: whoever takes a batch gets what waits, and an idle device takes at once. Entries whose client has gone or whose time
is up are dropped as they are popped. Thread-safe; knows neither HTTP nor the model.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition

from model import PageScores, PreparedPage, PreparedRequest
from service.errors import OverloadedError, UnavailableError
from service.tracing import Trace

_RATE_MEMORY = 0.8  # weight of the past in the measured rate of tokens per second
_SHARE_AFTER_OVERFLOW = 0.5  # of the batch that did not fit into the device's memory
_SHARE_REGAINED = 1 / 64  # of the whole budget, with every batch that does fit


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
    trace: Trace | None = None  # of the request that the window is of


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Pages whose features somebody may want later. Few, so that a request that comes meanwhile does not wait long."""

    pages: Sequence[PreparedPage]
    future: "Future[None]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBudget:
    max_tokens: int  # language tokens after pruning
    max_patches: int  # vision patches that must be encoded
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
        self.budget = budget
        self._on_cancelled = on_cancelled
        self._clock = clock
        self._entries: deque[Entry] = deque()
        self._background: deque[Encoding] = deque()
        self._changed = Condition()
        self._closed = False
        self._tokens_per_second = 0.0
        self.budget_share = 1.0  # of both budgets of a batch; less after the device's memory overflowed
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
        if self.waiting_tokens >= self.budget.queue_limit_tokens:
            raise self._overloaded()

    def submit(
        self, request: PreparedRequest, *, admitted: bool = False, trace: Trace | None = None
    ) -> "Future[Scored]":
        """Queue one window. An empty queue takes any; `admitted` requests are not refused half-way through their windows.

        Raises: OverloadedError, UnavailableError once closed.
        """
        with self._changed:
            if self._closed:
                raise UnavailableError("draining", "The service is shutting down. Send the request to another replica.")
            too_much = self.waiting_tokens + request.token_count > self.budget.queue_limit_tokens
            if too_much and self._entries and not admitted:
                raise self._overloaded()
            now = self._clock()
            entry = Entry(request=request, queued_at=now, expires_at=now + self.budget.queue_seconds, trace=trace)
            self._entries.append(entry)
            self._count(entry, 1)
            self._changed.notify()
            return entry.future

    def submit_background(self, pages: Sequence[PreparedPage]) -> "Future[None]":
        """Have pages encoded when no request waits. Cancelled when the batcher closes."""
        work = Encoding(pages=pages)
        with self._changed:
            if self._closed:
                work.future.cancel()
            else:
                self._background.append(work)
                self._changed.notify()
        return work.future

    def take(self, patches_of: Callable[[PreparedRequest], int]) -> list[Entry] | Encoding | None:
        """Wait for work: the oldest entries that fit the budgets, at least one; else pages to encode. None: closed and drained.

        patches_of: what the vision pass of a request costs now; asked as the entry is popped.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._entries or self._background or self._closed)
                if batch := self._pop_batch(patches_of):
                    return batch
                if (work := self._pop_background()) is not None:
                    return work
                if self._closed and not self._entries:
                    return None

    def record_rate(self, tokens: int, seconds: float) -> None:
        """Learn from a finished batch how fast the device is."""
        rate = tokens / max(seconds, 1e-6)
        past = self._tokens_per_second
        self._tokens_per_second = _RATE_MEMORY * past + (1 - _RATE_MEMORY) * rate if past else rate

    def set_budget(self, budget: BatchBudget) -> None:
        """Change the budgets, once the model has told how much its device has room for."""
        with self._changed:
            self.budget = budget

    def shrink_batches(self, overflowed: Sequence[Entry]) -> None:
        """Form smaller batches from now on: at most half of the one that overflowed the device's memory."""
        tokens = sum(entry.request.token_count for entry in overflowed) / self.budget.max_tokens
        patches = sum(entry.request.patch_count for entry in overflowed) / self.budget.max_patches
        with self._changed:
            self.budget_share = min(self.budget_share, _SHARE_AFTER_OVERFLOW * max(tokens, patches))

    def regain_budget(self) -> None:
        """A batch fitted: form slightly larger ones, up to the whole budget."""
        with self._changed:
            self.budget_share = min(1.0, self.budget_share + _SHARE_REGAINED)

    def close(self) -> None:
        """Admit nothing more; what waits is still given out."""
        with self._changed:
            self._closed = True
            while self._background:
                self._background.popleft().future.cancel()
            self._changed.notify_all()

    def fail_waiting(self, error: Exception) -> None:
        """Resolve everything that waits with `error`."""
        with self._changed:
            while self._entries:
                entry = self._pop()
                if entry.future.set_running_or_notify_cancel():
                    entry.future.set_exception(error)

    def _pop_batch(self, patches_of: Callable[[PreparedRequest], int]) -> list[Entry]:
        batch: list[Entry] = []
        tokens_left = self.budget_share * self.budget.max_tokens
        patches_left = self.budget_share * self.budget.max_patches
        while self._entries:
            request = self._entries[0].request
            tokens, patches = request.token_count, patches_of(request)
            if batch and (tokens > tokens_left or patches > patches_left):
                break
            entry = self._pop()
            if self._is_wanted(entry):
                batch.append(entry)
                tokens_left, patches_left = tokens_left - tokens, patches_left - patches
        return batch

    def _pop_background(self) -> Encoding | None:
        while self._background:
            work = self._background.popleft()
            if work.future.set_running_or_notify_cancel():
                return work
        return None

    def _is_wanted(self, entry: Entry) -> bool:
        if not entry.future.set_running_or_notify_cancel():
            self._on_cancelled()
            return False
        if self._clock() > entry.expires_at:
            message = f"The request waited over {self.budget.queue_seconds:g} s for the device. Try again later."
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
            f"{self.waiting_tokens} tokens are waiting and the limit is {self.budget.queue_limit_tokens}. Try again later.",
            retry_after_seconds=self._retry_after_seconds(),
        )

    def _retry_after_seconds(self) -> int:
        return min(5, max(1, math.ceil(self.estimated_wait_seconds)))
