"""More pages than one window: which pages to rank next, given the orders of the last windows.

A plan knows neither the model nor who scores the windows, or when:

    plan = choose_windows("sliding", page_count, window_size=20, stride=10)
    while plan.turn:
        plan.submit([rank(window) for window in plan.turn])
    plan.order
"""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from model.config import check_window
from model.errors import WindowError

WindowStrategy = Literal["sliding", "tournament"]


class WindowPlan(Protocol):
    """The windows of one request, turn by turn, and in the end the order of all its pages."""

    @property
    def turn(self) -> list[tuple[int, ...]]:
        """Windows (page indices) that can be ranked side by side now; none once the order is known."""
        ...

    def submit(self, orders: Sequence[Sequence[int]]) -> None:
        """Take the order of each window of the turn (indices into the window, best first), and go on to the next turn."""
        ...

    @property
    def order(self) -> tuple[int, ...]:
        """All pages, best first. To be asked for when no turn is left."""
        ...


def choose_windows(strategy: str, page_count: int, *, window_size: int, stride: int) -> WindowPlan:
    """`sliding`, the published one, or `tournament`, which has fewer windows, side by side, and ignores the stride.

    Raises: WindowError.
    """
    if strategy == "sliding":
        return SlidingPlan(page_count, window_size=window_size, stride=stride)
    if strategy == "tournament" and window_size == 1:  # nothing is ever compared
        return SlidingPlan(page_count, window_size=1, stride=1)
    if strategy == "tournament":
        return TournamentPlan(page_count, window_size=window_size)
    raise WindowError(f"strategy is {strategy!r}; it must be one of {', '.join(get_args(WindowStrategy))}.")


class SlidingPlan:
    """The published procedure: from the back of the list to the front, each window reordered in place.

    The best pages bubble to the front; consecutive windows share `window_size - stride` pages. One window a turn.
    Source: arXiv 2605.11864, arXiv 2304.09542.
    """

    def __init__(self, page_count: int, *, window_size: int, stride: int) -> None:
        """Raises: WindowError."""
        check_window(window_size, stride)
        self._window_size = window_size
        self._stride = stride
        self._order = list(range(page_count))
        self._end = page_count  # of the current window
        self._is_finished = False

    @property
    def turn(self) -> list[tuple[int, ...]]:
        return [] if self._is_finished else [tuple(self._order[self._start : self._end])]

    def submit(self, orders: Sequence[Sequence[int]]) -> None:
        start = self._start
        [self._order[start : self._end]] = _reorder(self.turn, orders)
        self._end -= self._stride
        self._is_finished = start == 0

    @property
    def order(self) -> tuple[int, ...]:
        assert self._is_finished, "a turn is left"
        return tuple(self._order)

    @property
    def _start(self) -> int:
        return max(self._end - self._window_size, 0)


class TournamentPlan:
    """Groups side by side, then one window of the best of each: ceil(n / w) + 1 windows in two turns, up to n = w².

    Pages are dealt to the groups in turn, so that pages that came first do not meet in one group. Of a page order by
    relevance the first floor(w / groups) places come out right. Behind the last window's pages come the others by their place
    in their group.  Source: a shallow form of top-down partitioning, arXiv 2405.14589.
    """

    def __init__(self, page_count: int, *, window_size: int) -> None:
        """window_size: at least 2. Raises: WindowError."""
        check_window(window_size, window_size)
        self._window_size = window_size
        self._finalists = list(range(page_count))
        self._eliminated: list[list[int]] = []  # of each turn, by their place in their group
        self._is_finished = False

    @property
    def turn(self) -> list[tuple[int, ...]]:
        if self._is_finished:
            return []
        return [tuple(self._finalists[first :: self._group_count]) for first in range(self._group_count)]

    def submit(self, orders: Sequence[Sequence[int]]) -> None:
        groups = _reorder(self.turn, orders)
        if len(groups) == 1:
            [self._finalists] = groups
            self._is_finished = True
            return
        places = max(1, self._window_size // len(groups))
        self._finalists = _by_place([group[:places] for group in groups])
        self._eliminated.append(_by_place([group[places:] for group in groups]))

    @property
    def order(self) -> tuple[int, ...]:
        assert self._is_finished, "a turn is left"
        return (*self._finalists, *(page for pages in reversed(self._eliminated) for page in pages))

    @property
    def _group_count(self) -> int:
        return max(1, -(-len(self._finalists) // self._window_size))


def _by_place(groups: Sequence[Sequence[int]]) -> list[int]:
    """All firsts, then all seconds, and so on; within a place in the order of the groups."""
    longest = max(map(len, groups))
    return [group[place] for place in range(longest) for group in groups if place < len(group)]


def _reorder(windows: Sequence[Sequence[int]], orders: Sequence[Sequence[int]]) -> list[list[int]]:
    """The pages of each window in the order that was submitted for it."""
    for window, order in zip(windows, orders, strict=True):
        assert sorted(order) == list(range(len(window))), "a window's order must name each of its pages once"
    return [[window[index] for index in order] for window, order in zip(windows, orders, strict=True)]
