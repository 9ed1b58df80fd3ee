"""A queue that serves its callers in turn, by cost: who puts in more than the others waits longer, and nobody else does.

This is start-time fair queueing (Goyal, Vin, Cheng 1996): the shares of deficit round robin, but a caller that asks for little
is served first. Time is counted in cost: a caller's next item is due when the costs of its items before have passed, the
caller that is due first is served, and one that comes anew is due at once. Over any time in which two callers have items
waiting, the costs that they were served differ by at most one item of each, and by three times `burst`: one that asked for less
than its share before may be ahead of its turn by the burst, and one that has little waiting may be ahead of one that has much
by twice as much, since that delays the other one little. Callers may be slower than others: their costs count several times,
and their items wait for the additional cost before they are served.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

MAX_SLOWNESS = 16

_OVERFLOW = 2

_DELAY_BY_WAITING = 8.0  # by which all that a caller has waiting counts in the order
_LONGEST_DELAY = 2.0  # bursts; so that not even a burst brings much work before little

_IDLE_CALLERS = 1024  # whose costs are remembered, beside those that are due later than now

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whose an item is, and how it compares with other items."""

    share_id: str  # of the caller, see `Caller.share_id`
    priority: int = 0  # among the caller's own items: a lower number is served first
    since: float = 0.0  # among its items of equal priority: the lower is served first, then the older item
    slowness: int = 1  # among callers, 1 to MAX_SLOWNESS: at 4 the caller gets a quarter of the share of one at 1


def finds_room(wanted: int, *, own: int, waiting: int, limit: int, callers: int) -> bool:
    """Whether a caller may add `wanted` to a queue that holds `waiting`, of which the caller's are `own`.

    Up to the limit everybody may. Beyond it, up to twice the limit, one that has nothing in the queue may, and one that stays
    within an equal share of the limit: nobody can fill the queue so that the others are refused.

    callers: that have something in the queue.
    """
    if waiting + wanted <= limit:
        return True
    is_within_share = not own or own + wanted <= limit / callers
    return is_within_share and waiting + wanted <= _OVERFLOW * limit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    item: Any
    slowness: int
    expected_cost: float


@dataclass(slots=True, kw_only=True)
class _Share:
    """One caller's items, and when the next is due, by slowness: yielding items do not delay the caller's other ones."""

    items: "list[tuple[int, float, int, _Entry]]" = field(default_factory=list)  # priority, since, age, entry: a heap
    due: dict[int, float] = field(default_factory=dict)
    waiting_cost: dict[int, float] = field(default_factory=dict)  # expected, of the items, by slowness
    ticket: int = 0  # of its valid entry in the order


class FairQueue(Generic[Item]):
    """Not thread-safe. Each call takes time that grows with the logarithm of the items or callers."""

    def __init__(self, *, burst: float = 0.0) -> None:
        """burst: cost by which a caller may be ahead of its turn, if it used less than its share before."""
        self._burst = burst
        self._shares: dict[str, _Share] = {}
        # A heap of due and additional costs, ticket, caller; entries of old tickets are void.
        self._order: list[tuple[float, int, str]] = []
        self._numbers = itertools.count(1)
        self._now = 0.0  # when the item served last was due
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, item: Item, standing: Standing, *, expected_cost: float) -> None:
        share = self._shares.get(standing.share_id)
        if share is None:
            self._forget_idle()
            share = self._shares[standing.share_id] = _Share()
        entry = _Entry(item=item, slowness=standing.slowness, expected_cost=expected_cost)
        heapq.heappush(share.items, (standing.priority, standing.since, next(self._numbers), entry))
        share.waiting_cost[standing.slowness] = share.waiting_cost.get(standing.slowness, 0.0) + expected_cost
        self._size += 1
        self._enter(standing.share_id, share)

    def peek(self) -> Item:
        """The item to be served next. Raises: IndexError when the queue is empty."""
        item: Item = self._shares[self._first()].items[0][-1].item
        return item

    def waiting_cost(self, standing: Standing) -> float:
        """Expected, of all items of this caller and slowness."""
        share = self._shares.get(standing.share_id)
        return share.waiting_cost.get(standing.slowness, 0.0) if share else 0.0

    def next_caller(self, may_be_served: Callable[[str], bool]) -> str | None:
        """The caller that is due first, of those with items that may be served now. None: there is none."""
        left_out: list[tuple[float, int, str]] = []
        try:
            while not may_be_served(share_id := self._first()):
                left_out.append(heapq.heappop(self._order))
        except IndexError:
            return None
        finally:
            for entry in left_out:
                heapq.heappush(self._order, entry)
        return share_id

    def pop(self, *, cost: float, share_id: str | None = None) -> Item:
        """Take out an item. Raises: IndexError when the queue is empty.

        cost: of serving it, in any unit. share_id: of the caller whose next item it is, see `next_caller`; None: the item that
        `peek` gives.
        """
        share_id = self._first() if share_id is None else share_id
        share = self._shares[share_id]
        entry = heapq.heappop(share.items)[-1]
        item: Item = entry.item
        share.waiting_cost[entry.slowness] = max(0.0, share.waiting_cost[entry.slowness] - entry.expected_cost)
        self._size -= 1
        self._now = max(self._now, share.due[entry.slowness])
        share.due[entry.slowness] += cost * entry.slowness
        if share.items:
            self._enter(share_id, share)
        return item

    def postpone(self, *, cost: float) -> None:
        """Leave the item that `peek` gives where it is, after a part of its work was done at this cost; others may go first."""
        share_id = self._first()
        share = self._shares[share_id]
        slowness = share.items[0][-1].slowness
        self._now = max(self._now, share.due[slowness])
        share.due[slowness] += cost * slowness
        self._enter(share_id, share)

    def charge(self, standing: Standing, cost: float) -> None:
        """Add to the cost of an item that was popped, where it is known only afterwards; negative: it cost less."""
        share = self._shares.get(standing.share_id)
        if share is not None and standing.slowness in share.due:
            share.due[standing.slowness] += cost * standing.slowness
            if share.items:
                self._enter(standing.share_id, share)

    def _enter(self, share_id: str, share: _Share) -> None:
        """Put the caller into the order, by its first item and by all items of equal slowness that it has waiting."""
        entry = share.items[0][-1]
        due = share.due[entry.slowness] = max(self._now - self._burst, share.due.get(entry.slowness, self._now))
        share.ticket = next(self._numbers)
        waiting_cost = entry.slowness * share.waiting_cost[entry.slowness]
        delay = min(_DELAY_BY_WAITING * waiting_cost, _LONGEST_DELAY * self._burst)
        key = due + delay + (entry.slowness - 1) * entry.expected_cost
        heapq.heappush(self._order, (key, share.ticket, share_id))

    def _first(self) -> str:
        """The caller that is due first. Drops void entries on the way. Raises: IndexError when the queue is empty."""
        while True:
            _, ticket, share_id = self._order[0]
            share = self._shares.get(share_id)
            if share is not None and share.items and share.ticket == ticket:
                return share_id
            heapq.heappop(self._order)

    def _forget_idle(self) -> None:
        """Bound the memory of callers without items: first of those that would be due at once, then of all."""
        if not self._shares or len(self._shares) % _IDLE_CALLERS:
            return
        for is_due_later in (True, False):
            if len(self._shares) >= _IDLE_CALLERS:
                self._shares = {
                    share_id: share
                    for share_id, share in self._shares.items()
                    if share.items or (is_due_later and max(share.due.values(), default=0.0) > self._now)
                }
