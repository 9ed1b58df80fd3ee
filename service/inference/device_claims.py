"""The device time that requests being answered are still expected to take: the basis of how long one more waits.

The queue alone would not tell: of requests that arrive together none is in it yet when they choose their work. Used on the
event loop.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Claim:
    """The device time of one request, in seconds."""

    left: float
    window_seconds: float  # of one of its windows
    goes_on: bool = False  # it runs on although its request was answered without it


class DeviceClaims:
    """The device takes the windows of all requests in turn, and never interrupts one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._claims: list[Claim] = []
        self._advanced_at = clock()

    @contextmanager
    def claimed(self, seconds: float, *, windows: int) -> Iterator[Claim]:
        """Claim time while the block runs. The caller corrects `left` as its work goes on."""
        self._advance()
        claim = Claim(left=seconds, window_seconds=seconds / max(1, windows))
        self._claims.append(claim)
        try:
            yield claim
        finally:
            self._advance()
            self._claims = [each for each in self._claims if each.goes_on or each is not claim]

    def wait_seconds(self, windows: int, *, besides: Claim | None = None) -> float:
        """How long others hold up so many windows, one after the other: each by as many windows, or by all that it has left."""
        self._advance()
        return sum(min(each.left, windows * each.window_seconds) for each in self._claims if each is not besides)

    def _advance(self) -> None:
        """Take off the time that has passed."""
        now = self._clock()
        passed, self._advanced_at = now - self._advanced_at, now
        working = sorted((claim for claim in self._claims if claim.left > 0), key=lambda claim: claim.left)
        for place, claim in enumerate(working):
            share = min(claim.left, passed / (len(working) - place))
            claim.left -= share
            passed -= share
        self._claims = [claim for claim in self._claims if claim.left > 0 or not claim.goes_on]
