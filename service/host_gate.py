"""Keeps the machine's cores free for short windows where the device is the CPU itself.

Drawing and preparing pages then takes the very cores that score, and a window of 50 ms takes several times that beside them.
So while a short window waits or is scored, no page work of other callers begins. With a card the gate stays open.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_SECONDS = 1.0
"""For which the gate may be closed at once. It must have been open for as long before, so that it is open half of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """The gate at one moment."""

    let_in: frozenset[str] | None = None  # callers, by share_id; None: all
    seconds: float | None = None  # after which the gate lets all callers in, if it does not before; None: it does

    def keeps_out(self, share_id: str) -> bool:
        """Whether no work of the caller may begin."""
        return self.let_in is not None and share_id not in self.let_in


OPEN = GateState()


class HostGate:
    """Thread-safe. Open until it is enabled."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # of the fields below
        self._is_enabled = False
        self._closings: Counter[str] = Counter()  # by share_id
        self._seconds_left = _LONGEST_SECONDS  # for which it may be closed, at `_counted_at`
        self._counted_at = clock()
        self._listeners: list[Callable[[], None]] = []

    def enable(self) -> None:
        """From now on `close_for` closes the gate."""
        self._is_enabled = True

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each `open_after`, in any thread. It must not raise."""
        self._listeners.append(listener)

    def close_for(self, share_id: str) -> None:
        """Let no work of other callers begin. Each call needs an `open_after` for the same caller."""
        with self._lock:
            self._count_time()
            self._closings[share_id] += 1

    def open_after(self, share_id: str) -> None:
        """Take back one `close_for`."""
        with self._lock:
            self._count_time()
            self._closings[share_id] -= 1
            if not self._closings[share_id]:
                del self._closings[share_id]
        for listener in self._listeners:
            listener()

    def state(self) -> GateState:
        with self._lock:
            self._count_time()
            if not self._is_enabled or not self._closings or self._seconds_left <= 0:
                return OPEN
            return GateState(let_in=frozenset(self._closings), seconds=self._seconds_left)

    def _count_time(self) -> None:
        now = self._clock()
        passed, self._counted_at = now - self._counted_at, now
        change = -passed if self._closings else passed
        self._seconds_left = min(_LONGEST_SECONDS, max(0.0, self._seconds_left + change))
