"""Plans the windows for more pages than fit one prompt: the next windows to rank, given the orders of the last ones.

A plan leaves scoring to its caller:

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
    """The windows of one request, turn by turn, and finally the order of all its pages."""

    @property
    def turn(self) -> list[tuple[int, ...]]:
        """Windows (page indices) that can be ranked in parallel now; empty once the order is known."""
        ...

    def submit(self, orders: Sequence[Sequence[int]]) -> None:
        """Record the order of each window of this turn (indices into the window, best first), and start the next turn."""
        ...

    @property
    def order(self) -> tuple[int, ...]:
        """All pages, best first. Available when `turn` is empty."""
        ...

    @property
    def order_so_far(self) -> tuple[int, ...]:
        """All pages, best first as far as the submitted turns tell. The first `open_pages` are those of the turns to come."""
        ...

    @property
    def open_pages(self) -> int:
        """Pages that take part in the turns to come; 0 once the order is known."""
        ...

    def skip_to_last_turn(self) -> None:
        """Leave out the turns between the submitted ones and the last one, which ranks the best pages so far."""
        ...


def choose_windows(strategy: str, page_count: int, *, window_size: int, stride: int) -> WindowPlan:
    """The plan for `sliding`, the published strategy, or `tournament`, with fewer windows in parallel and no stride.

    Raises: WindowError.
    """
    if strategy == "sliding":
        return SlidingPlan(page_count, window_size=window_size, stride=stride)
    if strategy == "tournament" and window_size == 1:  # such windows compare no pages
        return SlidingPlan(page_count, window_size=1, stride=1)
    if strategy == "tournament":
        return TournamentPlan(page_count, window_size=window_size)
    raise WindowError(f"strategy is {strategy!r}; it must be one of {', '.join(get_args(WindowStrategy))}.")


class SlidingPlan:
    """The published procedure: reorders one window per turn, from the end of the list to its front.

    The best pages move to the front; consecutive windows share `window_size - stride` pages.
    Source: arXiv 2605.11864, arXiv 2304.09542.
    """

    def __init__(self, page_count: int, *, window_size: int, stride: int) -> None:
        """Raises: WindowError."""
        check_window(window_size, stride)
        self._window_size = window_size
        self._stride = stride
        self._order = list(range(page_count))
        self._end = page_count  # of the current window
        self._has_submitted = False
        self._is_finished = False

    @property
    def turn(self) -> list[tuple[int, ...]]:
        return [] if self._is_finished else [tuple(self._order[self._start : self._end])]

    def submit(self, orders: Sequence[Sequence[int]]) -> None:
        start = self._start
        [self._order[start : self._end]] = _reorder(self.turn, orders)
        self._has_submitted = True
        self._end -= self._stride
        self._is_finished = start == 0

    @property
    def order(self) -> tuple[int, ...]:
        assert self._is_finished, "a turn is left"
        return self.order_so_far

    @property
    def order_so_far(self) -> tuple[int, ...]:
        return tuple(self._order)

    @property
    def open_pages(self) -> int:
        return 0 if self._is_finished else self._end

    def skip_to_last_turn(self) -> None:
        """The best pages of the submitted turns are moved behind the first `stride` pages, into the window at the front."""
        if self._is_finished or self._end <= self._window_size:
            return
        carried = self._window_size - self._stride if self._has_submitted else 0
        skipped = slice(self._window_size - carried, self._end - carried)
        front = self._order[: skipped.start] + self._order[self._end - carried : self._end]
        self._order[: self._end] = front + self._order[skipped]
        self._end = self._window_size

    @property
    def _start(self) -> int:
        return max(self._end - self._window_size, 0)


class TournamentPlan:
    """Ranks groups in parallel, then the best pages of all groups in one window.

    Takes ceil(n / w) + 1 windows in two turns for n pages and window size w, up to n = w². Pages are dealt to the groups in
    turn, to spread the first pages of the input. With a perfect model the first floor(w / groups) places of the order are
    right. Eliminated pages follow the finalists, ordered by their place in their group.
    Source: a shallow form of top-down partitioning, arXiv 2405.14589.
    """

    def __init__(self, page_count: int, *, window_size: int) -> None:
        """window_size: at least 2. Raises: WindowError."""
        check_window(window_size, window_size)
        self._window_size = window_size
        self._finalists = list(range(page_count))
        self._eliminated: list[list[int]] = []  # for each turn, ordered by place in their group
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
        return self.order_so_far

    @property
    def open_pages(self) -> int:
        return 0 if self._is_finished else len(self._finalists)

    def skip_to_last_turn(self) -> None:
        """The finalists so far that one window has no room for are eliminated."""
        if not self._is_finished and len(self._finalists) > self._window_size:
            self._eliminated.append(self._finalists[self._window_size :])
            self._finalists = self._finalists[: self._window_size]

    @property
    def order_so_far(self) -> tuple[int, ...]:
        return (*self._finalists, *(page for pages in reversed(self._eliminated) for page in pages))

    @property
    def _group_count(self) -> int:
        return max(1, -(-len(self._finalists) // self._window_size))


def _by_place(groups: Sequence[Sequence[int]]) -> list[int]:
    """The first of each group, then the second of each, and so on."""
    longest = max(map(len, groups))
    return [group[place] for place in range(longest) for group in groups if place < len(group)]


def _reorder(windows: Sequence[Sequence[int]], orders: Sequence[Sequence[int]]) -> list[list[int]]:
    """The pages of each window in its submitted order."""
    for window, order in zip(windows, orders, strict=True):
        assert sorted(order) == list(range(len(window))), "a window's order must name each of its pages once"
    return [[window[index] for index in order] for window, order in zip(windows, orders, strict=True)]
