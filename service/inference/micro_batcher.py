"""The queue in front of the device: bounded in tokens, emptied in batches under two budgets, with background work behind it.

There is no timer: a batch consists of the windows that are queued when the device takes it, and an idle device takes at once.
Windows whose client has disconnected or whose time is up are dropped as they are popped. Thread-safe.
"""

import math
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition

from model import PageScores, PreparedPage, PreparedRequest
from service.errors import DeadlineExceededError, OverloadedError, UnavailableError
from service.tracing import Trace

_RATE_MEMORY = 0.8  # weight of the past in the measured rate of tokens per second
_SHARE_AFTER_OVERFLOW = 0.5  # of the batch that did not fit into the device's memory
_SHARE_REGAINED = 1 / 64  # of the whole budget, with every batch that does fit


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """The scores of a window, and the times of its batch."""

    scores: PageScores
    queue_seconds: float
    stage_seconds: dict[str, float]  # upload to language, of the whole batch


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedWindow:
    """One window of one request."""

    request: PreparedRequest
    future: "Future[WindowResult]" = field(default_factory=Future)
    queued_at: float
    expires_at: float
    is_due: bool = False  # it expires by the deadline of its request, and not by the longest wait for a batch
    priority: int = 0  # a lower number leaves the queue sooner
    trace: Trace | None = None  # of the request that the window is of


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundEncode:
    """Pages to encode into the feature cache ahead of requests. Few, so that a request that arrives meanwhile waits little."""

    pages: Sequence[PreparedPage]
    future: "Future[None]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBudget:
    max_tokens: int  # language tokens after pruning
    max_patches: int  # vision patches that must be encoded
    queue_limit_tokens: int
    queue_seconds: float  # a window that waited longer is not worth starting


class MicroBatcher:
    """The queue of windows. Requests submit, the device's thread takes."""

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
        self._windows: list[QueuedWindow] = []  # by priority, then by age
        self._background: deque[BackgroundEncode] = deque()
        self._changed = Condition()
        self._closed = False
        self._tokens_per_second = 0.0
        self.budget_share = 1.0  # of both budgets of a batch; less after a batch ran out of device memory
        self.waiting_tokens = 0
        self.waiting_pages = 0

    @property
    def waiting_windows(self) -> int:
        return len(self._windows)

    @property
    def estimated_wait_seconds(self) -> float:
        """Tokens waiting over the measured rate; 0 before the first measurement."""
        return self.waiting_tokens / self._tokens_per_second if self._tokens_per_second else 0.0

    def refuse_when_full(self) -> None:
        """Raises OverloadedError when no window would be admitted, so that no work is wasted."""
        if self.waiting_tokens >= self.budget.queue_limit_tokens:
            raise self._overloaded()

    def submit(
        self,
        request: PreparedRequest,
        *,
        priority: int = 0,
        admitted: bool = False,
        expires_at: float = math.inf,
        trace: Trace | None = None,
    ) -> "Future[WindowResult]":
        """Queue one window. An empty queue takes any.

        priority: it leaves before all windows of a higher number, and after the older ones of its own.
        expires_at: by the clock; the window is worth nothing later, and fails with DeadlineExceededError.
        admitted: an earlier window of the request was queued, so that this one is not refused for the length of the queue.

        Raises: OverloadedError, UnavailableError once closed.
        """
        with self._changed:
            if self._closed:
                raise UnavailableError("draining", "The service is shutting down. Send the request to another replica.")
            too_much = self.waiting_tokens + request.token_count > self.budget.queue_limit_tokens
            if too_much and self._windows and not admitted:
                raise self._overloaded()
            now = self._clock()
            window = QueuedWindow(
                request=request,
                queued_at=now,
                expires_at=min(now + self.budget.queue_seconds, expires_at),
                is_due=expires_at <= now + self.budget.queue_seconds,
                priority=priority,
                trace=trace,
            )
            insort(self._windows, window, key=lambda queued: queued.priority)
            self._count(window, 1)
            self._changed.notify()
            return window.future

    def submit_background(self, pages: Sequence[PreparedPage]) -> "Future[None]":
        """Have pages encoded when no request waits. Cancelled when the batcher closes."""
        work = BackgroundEncode(pages=pages)
        with self._changed:
            if self._closed:
                work.future.cancel()
            else:
                self._background.append(work)
                self._changed.notify()
        return work.future

    def take(self, patches_of: Callable[[PreparedRequest], int]) -> list[QueuedWindow] | BackgroundEncode | None:
        """Wait for work: the next windows that fit the budgets, at least one; else pages to encode. None: closed and drained.

        patches_of: patches of a window's vision pass at present; called as the window is popped.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._windows or self._background or self._closed)
                if batch := self._pop_batch(patches_of):
                    return batch
                while self._background:
                    work = self._background.popleft()
                    if work.future.set_running_or_notify_cancel():
                        return work
                if self._closed and not self._windows:
                    return None

    def record_rate(self, tokens: int, seconds: float) -> None:
        """Update the measured rate of the device by a finished batch."""
        rate = tokens / max(seconds, 1e-6)
        past = self._tokens_per_second
        self._tokens_per_second = _RATE_MEMORY * past + (1 - _RATE_MEMORY) * rate if past else rate

    def set_budget(self, budget: BatchBudget) -> None:
        """Change the budgets, once the model is loaded and the room on its device is known."""
        with self._changed:
            self.budget = budget

    def shrink_batches(self, overflowed: Sequence[QueuedWindow]) -> None:
        """Form smaller batches from now on: at most half of the one that overflowed the device's memory."""
        tokens = sum(window.request.token_count for window in overflowed) / self.budget.max_tokens
        patches = sum(window.request.patch_count for window in overflowed) / self.budget.max_patches
        with self._changed:
            self.budget_share = min(self.budget_share, _SHARE_AFTER_OVERFLOW * max(tokens, patches))

    def regain_budget(self) -> None:
        """After a batch that did fit: form slightly larger ones, up to the whole budget."""
        with self._changed:
            self.budget_share = min(1.0, self.budget_share + _SHARE_REGAINED)

    def close(self) -> None:
        """Refuse new windows. Windows already queued are still handed out."""
        with self._changed:
            self._closed = True
            while self._background:
                self._background.popleft().future.cancel()
            self._changed.notify_all()

    def fail_waiting(self, error: Exception) -> None:
        """Fail all queued windows with `error`."""
        with self._changed:
            while self._windows:
                window = self._pop()
                if window.future.set_running_or_notify_cancel():
                    window.future.set_exception(error)

    def _pop_batch(self, patches_of: Callable[[PreparedRequest], int]) -> list[QueuedWindow]:
        """The next windows that fit the budgets. Drops cancelled windows and fails expired ones on the way."""
        batch: list[QueuedWindow] = []
        tokens_left = self.budget_share * self.budget.max_tokens
        patches_left = self.budget_share * self.budget.max_patches
        while self._windows:
            request = self._windows[0].request
            tokens, patches = request.token_count, patches_of(request)
            if batch and (tokens > tokens_left or patches > patches_left or self._delays(batch, self._windows[0])):
                break
            window = self._pop()
            if not window.future.set_running_or_notify_cancel():
                if not (
                    window.is_due and self._clock() > window.expires_at
                ):  # else its request was answered without it
                    self._on_cancelled()
            elif self._clock() > window.expires_at and window.is_due:
                message = "The time of the request ended while it waited for the device."
                window.future.set_exception(DeadlineExceededError("deadline_exceeded", message))
            elif self._clock() > window.expires_at:
                message = f"The request waited over {self.budget.queue_seconds:g} s for the device. Try again later."
                window.future.set_exception(
                    UnavailableError("queue_timeout", message, retry_after_seconds=self._retry_after_seconds())
                )
            else:
                batch.append(window)
                tokens_left, patches_left = tokens_left - tokens, patches_left - patches
        return batch

    def _delays(self, batch: Sequence[QueuedWindow], more: QueuedWindow) -> bool:
        """Whether a window of the batch would be late for its request if one more were in it."""
        due_at = min((window.expires_at for window in batch if window.is_due), default=math.inf)
        if not self._tokens_per_second or due_at == math.inf:
            return False
        tokens = more.request.token_count + sum(window.request.token_count for window in batch)
        return self._clock() + tokens / self._tokens_per_second > due_at

    def _pop(self) -> QueuedWindow:
        window = self._windows.pop(0)
        self._count(window, -1)
        return window

    def _count(self, window: QueuedWindow, sign: int) -> None:
        self.waiting_tokens += sign * window.request.token_count
        self.waiting_pages += sign * len(window.request.pages)

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(
            "overloaded",
            f"{self.waiting_tokens} tokens are waiting and the limit is {self.budget.queue_limit_tokens}. Try again later.",
            retry_after_seconds=self._retry_after_seconds(),
        )

    def _retry_after_seconds(self) -> int:
        return min(5, max(1, math.ceil(self.estimated_wait_seconds)))
