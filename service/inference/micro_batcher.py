"""The queue in front of the device: bounded in tokens, emptied in batches under two budgets, with background work behind it.

There is no timer: a batch consists of the windows that are queued when the device takes it, and an idle device takes at once.
Callers are served by fair shares of the device's time, so that a flood by one delays that one alone; while there are several,
batches are short too, because others wait for a batch that runs. Windows whose client has disconnected or whose time is
up are dropped as they are popped. Thread-safe.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Condition

from model import PreparedPage, PreparedRequest
from service.errors import DeadlineExceededError, OverloadedError, UnavailableError
from service.fair_queue import FairQueue, Standing, finds_room
from service.host_gate import HostGate
from service.inference.device_rates import DeviceRates
from service.inference.queued_work import BackgroundEncode, QueuedWindow, WindowResult
from service.retry_after import retry_after
from service.tracing import Trace

_MEAN_MEMORY = 0.8  # weight of the past in the mean size of a window
_SHARE_AFTER_OVERFLOW = 0.5  # of the batch that did not fit into the device's memory
_SHARE_REGAINED = 1 / 64  # of the whole budget, with every batch that does fit
_SHORT_BATCH_SECONDS = 0.1
"""More windows in a batch of this length do not make the device faster, but other callers wait for it."""

_INTERRUPTING_SECONDS = 0.5
"""Longest window that is scored while a batch of another caller pauses: such a window does not pause itself."""

_BURST_SECONDS = 3.0
"""Of the device's time, by which a caller may be ahead of its turn if it used less than its share before."""

_EARLY_PART = 0.75
"""Of the longest wait. Above it a request is refused early; those that passed may find a longer queue when they get here."""

_LITTLE = 1.5  # windows of mean size
_COMPANY_SECONDS = 300.0  # after a change of the caller: so long batches are kept short for the other one

_NOBODY = Standing(share_id="")


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
        gate: HostGate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """gate: is closed while a short window waits or is scored, where several callers share the device."""
        self.budget = budget
        self._on_cancelled = on_cancelled
        self._gate = gate or HostGate()
        self._clock = clock
        self._windows: FairQueue[QueuedWindow] = FairQueue(burst=_BURST_SECONDS)
        self._tokens_by_caller: Counter[str] = Counter()  # of those waiting, by share_id
        self._last_caller: str | None = None
        self._company_until = -math.inf
        self._background: deque[BackgroundEncode] = deque()
        self._changed = Condition()
        self._closed = False
        self._window_tokens = 0.0  # mean of those that were queued
        self.rates = DeviceRates()
        self.budget_share = 1.0  # of both budgets of a batch; less after a batch ran out of device memory
        self.waiting_tokens = 0
        self.waiting_pages = 0

    @property
    def waiting_windows(self) -> int:
        return len(self._windows)

    @property
    def estimated_wait_seconds(self) -> float:
        """Tokens waiting over the measured rate; 0 before the first measurement."""
        return self.waiting_tokens / self.rates.batches.per_second if self.rates.batches.per_second else 0.0

    def estimated_wait_of(self, share_id: str) -> float:
        """Seconds until a further window of this caller would be taken; 0 before the first measurement.

        Until then the caller is served all that it has waiting, and each other one as much, or all that that one has.
        """
        if not self.rates.batches.per_second:
            return 0.0
        own = self._tokens_by_caller[share_id]
        return sum(min(own, waiting) for waiting in self._tokens_by_caller.values()) / self.rates.batches.per_second

    def refuse_when_full(self, share_id: str = "") -> None:
        """Raises OverloadedError when no usual window of this caller would be admitted, so that no work is wasted."""
        with self._changed:
            self._require_room(
                share_id, round(self._window_tokens) or 1, seconds=_EARLY_PART * self.budget.queue_seconds
            )

    def submit(
        self,
        request: PreparedRequest,
        *,
        patches: int | None = None,
        standing: Standing = _NOBODY,
        admitted: bool = False,
        expires_at: float = math.inf,
        trace: Trace | None = None,
    ) -> "Future[WindowResult]":
        """Queue one window. An empty queue takes any.

        patches: of its vision pass at present; None: all that its pages have.
        standing: whose window it is, and how it compares with others.
        expires_at: by the clock; the window is worth nothing later, and fails with DeadlineExceededError.
        admitted: an earlier window of the request was queued, so that this one is not refused for the length of the queue.

        Raises: OverloadedError, UnavailableError once closed.
        """
        with self._changed:
            if self._closed:
                raise UnavailableError("draining", "The service is shutting down. Send the request to another replica.")
            if not admitted:
                self._require_room(standing.share_id, request.token_count, seconds=self.budget.queue_seconds)
            now = self._clock()
            if standing.share_id != self._last_caller:
                if self._last_caller is not None:
                    self._company_until = now + _COMPANY_SECONDS
                self._last_caller = standing.share_id
            window = QueuedWindow(
                request=request,
                queued_at=now,
                expires_at=min(now + self.budget.queue_seconds, expires_at),
                is_due=expires_at <= now + self.budget.queue_seconds,
                standing=standing,
                trace=trace,
            )
            self._window_tokens = _mean(self._window_tokens, request.token_count)
            expected = self.rates.seconds(
                tokens=request.token_count, patches=request.patch_count if patches is None else patches
            )
            self._windows.push(window, standing, expected_cost=expected)
            self._count(window, 1)
            if self._has_company and self._windows.waiting_cost(standing) <= _INTERRUPTING_SECONDS:
                self._gate.close_for(standing.share_id)
                window.future.add_done_callback(lambda done: self._gate.open_after(standing.share_id))
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

    def take(
        self,
        patches_of: Callable[[PreparedRequest], int],
        pages_to_encode: Callable[[PreparedRequest], Sequence[PreparedPage]] = lambda request: (),
    ) -> list[QueuedWindow] | BackgroundEncode | None:
        """Wait for work: the next windows that fit the budgets, at least one; else pages to encode. None: closed and drained.

        Where callers share the device, the pages of a window with a long vision pass are encoded first, few at a time.

        patches_of: patches of a window's vision pass at present; called as the window is popped.
        pages_to_encode: its pages of which the vision pass would consist.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._windows or self._background or self._closed)
                self._drop_ended()
                if piece := self._next_piece(patches_of, pages_to_encode):
                    return piece
                if batch := self._pop_batch(patches_of):
                    return batch
                while self._background:
                    work = self._background.popleft()
                    if work.future.set_running_or_notify_cancel():
                        return work
                if self._closed and not self._windows:
                    return None

    def take_between(
        self, callers: Collection[str], patches_of: Callable[[PreparedRequest], int], *, seconds: float
    ) -> list[QueuedWindow]:
        """Windows of another caller whose turn it is, if they are short: to be scored while work for `callers` pauses.

        seconds: that the work takes by itself. Windows that take longer do not interrupt it.
        """
        with self._changed:
            self._drop_ended()
            if not self._windows or not self._has_company:
                return []
            window = self._windows.peek()
            window_seconds = self.rates.seconds(tokens=window.request.token_count, patches=patches_of(window.request))
            is_short = window_seconds <= min(_INTERRUPTING_SECONDS, seconds)
            return self._pop_batch(patches_of) if is_short and window.standing.share_id not in callers else []

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
                window = self._pop(cost=0.0)
                if window.future.set_running_or_notify_cancel():
                    window.future.set_exception(error)

    def _pop_batch(self, patches_of: Callable[[PreparedRequest], int]) -> list[QueuedWindow]:
        """The next windows that fit the budgets, at least one where the queue has any."""
        batch: list[QueuedWindow] = []
        tokens_left = self.budget_share * self.budget.max_tokens
        patches_left = self.budget_share * self.budget.max_patches
        seconds_left = self._longest_batch_seconds()
        while self._windows:
            request = self._windows.peek().request
            tokens, patches = request.token_count, patches_of(request)
            seconds = self.rates.seconds(tokens=tokens, patches=patches)
            is_full = tokens > tokens_left or patches > patches_left or seconds > seconds_left
            if batch and (is_full or self._delays(batch, seconds)):
                break
            window = self._pop(cost=seconds)
            if not window.future.set_running_or_notify_cancel():  # cancelled since `_drop_ended`
                self._count_cancelled(window)
                continue
            batch.append(replace(window, patches=patches, seconds=seconds))
            tokens_left, patches_left = tokens_left - tokens, patches_left - patches
            seconds_left -= seconds
            self._drop_ended()
        return batch

    def _drop_ended(self) -> None:
        """Drop windows from the head of the queue that nobody waits for any longer, and fail those whose time is up."""
        while self._windows:
            window = self._windows.peek()
            is_over = window.is_due and self._clock() > window.expires_at
            if not (window.future.cancelled() or is_over or self._is_late(window)):
                return
            self._pop(cost=0.0)
            if not window.future.set_running_or_notify_cancel():
                self._count_cancelled(window)
            elif is_over:
                message = "The time of the request ended while it waited for the device."
                window.future.set_exception(DeadlineExceededError("deadline_exceeded", message))
            else:
                message = f"The request waited over {self.budget.queue_seconds:g} s for the device. Try again later."
                seconds = retry_after(self.estimated_wait_of(window.standing.share_id))
                window.future.set_exception(UnavailableError("queue_timeout", message, retry_after_seconds=seconds))

    def _count_cancelled(self, window: QueuedWindow) -> None:
        is_over = window.is_due and self._clock() > window.expires_at
        if not is_over:  # else its request was answered without it
            self._on_cancelled()

    def _delays(self, batch: Sequence[QueuedWindow], seconds: float) -> bool:
        """Whether a window of the batch would be late for its request if one more, of so many seconds, were in it."""
        due_at = min((window.expires_at for window in batch if window.is_due), default=math.inf)
        return self._clock() + seconds + sum(window.seconds for window in batch) > due_at

    def _next_piece(
        self,
        patches_of: Callable[[PreparedRequest], int],
        pages_to_encode: Callable[[PreparedRequest], Sequence[PreparedPage]],
    ) -> BackgroundEncode | None:
        """Pages of the next window to encode on their own, where all of them would take long and there are other callers."""
        if not self._windows or not self._has_company:
            return None
        window = self._windows.peek()
        if not window.progress.tried and not self._takes_long(patches_of(window.request)):
            return None
        unknown = [page for page in pages_to_encode(window.request) if page.content_hash not in window.progress.tried]
        if not unknown:
            return None
        patches = window.request.patch_count // len(window.request.pages)  # of a page
        count = int(
            _SHORT_BATCH_SECONDS * self.rates.vision.per_second / max(1, patches)
        )  # 0 before the first measurement
        pages = unknown[: max(1, count)]
        window.progress.tried.update(page.content_hash for page in pages)
        patches *= len(pages)
        self._windows.postpone(cost=self.rates.seconds(tokens=0, patches=patches))
        return BackgroundEncode(pages=pages, patches=patches, window=window)

    def _takes_long(self, patches: int) -> bool:
        """Whether a vision pass of so many patches takes long, or may, as none was measured."""
        if not patches or not self.rates.vision.per_second:
            return patches > 0
        return self.rates.seconds(tokens=0, patches=patches) > 2 * _SHORT_BATCH_SECONDS

    def _is_late(self, window: QueuedWindow) -> bool:
        """Whether nothing was done for the window in the time that it may wait."""
        return not window.progress.tried and self._clock() > window.expires_at

    @property
    def _has_company(self) -> bool:
        """Whether more than one caller used the device lately."""
        return self._clock() <= self._company_until

    def _longest_batch_seconds(self) -> float:
        """Others can wait for so long; without a bound where one caller has the device to itself."""
        return _SHORT_BATCH_SECONDS if self._has_company else math.inf

    def _pop(self, *, cost: float) -> QueuedWindow:
        window = self._windows.pop(cost=cost)
        self._count(window, -1)
        return window

    def _count(self, window: QueuedWindow, sign: int) -> None:
        tokens, share_id = sign * window.request.token_count, window.standing.share_id
        self.waiting_tokens += tokens
        self.waiting_pages += sign * len(window.request.pages)
        self._tokens_by_caller[share_id] += tokens
        if not self._tokens_by_caller[share_id]:
            del self._tokens_by_caller[share_id]

    def _require_room(self, share_id: str, tokens: int, *, seconds: float) -> None:
        """Raises: OverloadedError, where the caller's window would find no room, or would not be taken in so many seconds."""
        if not self._windows:
            return
        limit = self.budget.queue_limit_tokens
        has_room = finds_room(
            tokens,
            own=self._tokens_by_caller[share_id],
            waiting=self.waiting_tokens,
            limit=limit,
            callers=len(self._tokens_by_caller),
        )
        if not has_room:
            message = f"{self.waiting_tokens} tokens are waiting and the limit is {limit}. Try again later."
        elif (wait := self.estimated_wait_of(share_id)) > seconds and not self._holds_little(share_id):
            message = (
                f"The request would wait {wait:.0f} s for the device and the limit is {seconds:g}. Try again later."
            )
        else:
            return
        raise OverloadedError("overloaded", message, retry_after_seconds=retry_after(self.estimated_wait_of(share_id)))

    def _holds_little(self, share_id: str) -> bool:
        """Whether at most one window of the caller waits, and less than the mean of all callers.

        Such a caller is mostly ahead of its turn, so that it waits for less than the estimate.
        """
        own = self._tokens_by_caller[share_id]
        return own <= _LITTLE * self._window_tokens and own * len(self._tokens_by_caller) < self.waiting_tokens


def _mean(past: float, value: float) -> float:
    """A moving mean."""
    return _MEAN_MEMORY * past + (1 - _MEAN_MEMORY) * value if past else value
