"""The terms of requests whose time is limited: the client's choice, and the parts of a ranking that were given up for it.

Knows no other part of the service.
"""

from dataclasses import dataclass
from typing import Literal

OnDeadline = Literal["degrade", "fail"]
"""Where the time does not suffice for the ranking as it was asked for: do less of it, or answer with an error."""

MAX_TIMEOUT_MS = 86_400_000  # a day

GivenUpName = Literal["keep_ratio", "window_strategy", "windows", "ranked_pages", "order"]
"""keep_ratio: the lowest of all windows; windows: of the chosen ranking; ranked_pages: those that were in a window; order:
`given` where no page was ranked."""

DegradationReason = Literal["too_little_time", "time_up"]
"""too_little_time: less work was chosen, as more was not expected to end in time; time_up: the chosen work did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """One measure of the ranking."""

    name: GivenUpName
    wanted: float | str
    got: float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """The parts of the ranking that were given up so that the answer came in time."""

    reason: DegradationReason
    timeout_ms: int  # of the request
    given_up: tuple[GivenUp, ...]  # at least one
