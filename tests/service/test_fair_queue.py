"""Shares by cost: no caller waits for another's flood, and none is forgotten."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.fair_queue import FairQueue, Standing, finds_room

CALLERS = ("a", "b", "c")


def filled(*pushed: tuple[str, float], burst: float = 0.0) -> FairQueue[tuple[str, float]]:
    """A queue of (caller, cost), pushed in this order."""
    queue: FairQueue[tuple[str, float]] = FairQueue(burst=burst)
    for item in pushed:
        push(queue, *item)
    return queue


def push(
    queue: FairQueue[tuple[str, float]], share_id: str, cost: float, *, priority: int = 0, slowness: int = 1
) -> None:
    standing = Standing(share_id=share_id, priority=priority, slowness=slowness)
    queue.push((share_id, cost), standing, expected_cost=cost)


def pop(queue: FairQueue[tuple[str, float]]) -> tuple[str, float]:
    _, cost = queue.peek()
    return queue.pop(cost=cost)


def served(queue: FairQueue[tuple[str, float]], count: int) -> str:
    """The callers of the next items."""
    return "".join(pop(queue)[0] for _ in range(count))


def test_one_that_comes_anew_is_next_whatever_the_others_have_waiting() -> None:
    queue = filled(*[("a", 10.0)] * 1000)
    assert served(queue, 3) == "aaa"
    push(queue, "b", 10)
    assert served(queue, 1) == "b"


def test_callers_take_turns_by_cost() -> None:
    queue = filled(*[("a", 10.0)] * 50, *[("b", 30.0)] * 50)
    assert Counter(served(queue, 40)) == {"a": 30, "b": 10}


@given(st.lists(st.tuples(st.sampled_from(CALLERS), st.integers(1, 50)), min_size=1, max_size=60))
def test_while_callers_have_items_waiting_their_costs_differ_by_one_item_each(items: list[tuple[str, int]]) -> None:
    queue = filled(*((caller, float(cost)) for caller, cost in items))
    most = {caller: max((cost for name, cost in items if name == caller), default=0) for caller in CALLERS}
    left = Counter(caller for caller, _ in items)
    spent: Counter[str] = Counter()
    backlogged = {caller for caller in CALLERS if left[caller]}
    while len(queue):
        caller, cost = pop(queue)
        left[caller] -= 1
        spent[caller] += int(cost)
        backlogged = {name for name in backlogged if left[name]}
        for one in backlogged:
            for other in backlogged:
                assert spent[one] - spent[other] <= most[one] + most[other]


@given(st.lists(st.tuples(st.sampled_from(CALLERS), st.integers(1, 9), st.integers(0, 3)), max_size=60))
def test_every_item_is_served_once_and_those_of_a_caller_by_priority_and_then_by_age(
    items: list[tuple[str, int, int]],
) -> None:
    queue: FairQueue[tuple[str, int, int]] = FairQueue()
    for number, (caller, cost, priority) in enumerate(items):
        standing = Standing(share_id=caller, priority=priority, slowness=1 + priority)
        queue.push((caller, priority, number), standing, expected_cost=cost)
    taken = [queue.pop(cost=items[queue.peek()[2]][1]) for _ in range(len(items))]
    assert sorted(number for *_, number in taken) == list(range(len(items))) and not queue
    for caller in CALLERS:
        own = [(priority, number) for name, priority, number in taken if name == caller]
        assert own == sorted(own)


def test_windows_of_a_request_that_came_before_go_before_those_of_later_ones() -> None:
    queue: FairQueue[str] = FairQueue()
    for name, since in (("first", 1.0), ("second", 2.0), ("first again", 1.0)):
        queue.push(name, Standing(share_id="a", since=since), expected_cost=1)
    assert [queue.pop(cost=1) for _ in range(3)] == ["first", "first again", "second"]


def test_a_slower_caller_gets_its_part_and_is_never_forgotten() -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue()
    for _ in range(200):
        push(queue, "a", 1)
        push(queue, "b", 1, slowness=4)
    assert Counter(served(queue, 100)) == {"a": 80, "b": 20}


def test_items_that_yield_do_not_delay_the_callers_own_others() -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue()
    for _ in range(5):
        push(queue, "a", 10, priority=9, slowness=16)
    assert served(queue, 4) == "aaaa"
    for _ in range(10):
        push(queue, "b", 10)
    push(queue, "a", 1)
    assert "a" in served(queue, 2)


def test_one_that_used_less_than_its_share_is_ahead_by_the_burst_alone() -> None:
    queue = filled(*[("a", 10.0)] * 100, ("b", 10.0), burst=50.0)
    served(queue, 20)  # b's one item is among them
    for _ in range(20):
        push(queue, "b", 10)
    assert served(queue, 5) == "bbbbb"
    assert 4 <= served(queue, 10).count("b") <= 6, "then in turn"


def test_one_that_has_much_waiting_is_not_ahead_of_one_that_has_little() -> None:
    queue = filled(("a", 10.0), burst=50.0)
    for _ in range(100):
        push(queue, "b", 1)
        served(queue, 1)
    for _ in range(5):
        push(queue, "a", 40)
    for _ in range(20):
        push(queue, "b", 1)
        assert served(queue, 1) == "b"


def test_items_that_yield_count_for_nothing_beside_the_callers_other_ones() -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue(burst=50.0)
    push(queue, "a", 100, priority=9, slowness=16)
    push(queue, "b", 5)
    push(queue, "a", 1)
    assert served(queue, 3) == "aba"


def test_what_a_slower_caller_has_waiting_counts_as_often_as_its_costs() -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue(burst=50.0)
    push(queue, "b", 1, slowness=6)
    push(queue, "a", 2)
    push(queue, "a", 2)
    assert served(queue, 3) == "aab"


def test_one_that_has_little_waiting_gets_no_more_than_its_share_in_the_end() -> None:
    queue = filled(*[("a", 10.0)] * 300, burst=50.0)
    spent: Counter[str] = Counter()
    for _ in range(400):
        if spent["b"] < 3000:
            push(queue, "b", 10)
        while (caller := pop(queue)[0]) == "a":
            spent["a"] += 10
        spent[caller] += 10
        if spent["a"] >= 2000:
            break
    assert abs(spent["a"] - spent["b"]) <= 3 * 50 + 2 * 10


def test_a_part_of_an_item_lets_others_go_first() -> None:
    queue = filled(("a", 100.0), ("b", 50.0), ("b", 50.0))
    queue.postpone(cost=60)
    assert queue.peek()[0] == "b" and len(queue) == 3
    assert served(queue, 3) == "bba"


def test_a_cost_that_is_known_afterwards_counts() -> None:
    queue = filled(*[("a", 1.0)] * 10, *[("b", 1.0)] * 10)
    assert served(queue, 1) == "a"
    queue.charge(Standing(share_id="a"), 5)
    assert served(queue, 7) == "bbbbbba"


def test_memory_does_not_grow_with_the_callers_that_were_served() -> None:
    queue: FairQueue[tuple[str, float]] = FairQueue()
    for number in range(20_000):
        push(queue, f"caller {number}", 1)
        pop(queue)
    assert len(queue._shares) <= 1024 and len(queue._order) <= 1024


def test_an_empty_queue_has_no_next_item() -> None:
    with pytest.raises(IndexError):
        FairQueue[str]().peek()


def test_a_full_queue_has_room_for_those_that_hold_less_than_their_share() -> None:
    assert finds_room(1, own=9, waiting=9, limit=10, callers=1)
    assert not finds_room(1, own=10, waiting=10, limit=10, callers=1)
    assert finds_room(1, own=0, waiting=10, limit=10, callers=1), "a newcomer"
    assert finds_room(1, own=4, waiting=14, limit=10, callers=2), "with half of the limit, of two callers"
    assert not finds_room(1, own=5, waiting=15, limit=10, callers=2)
    assert not finds_room(1, own=0, waiting=20, limit=10, callers=20), "there is an end to it"


def test_the_next_caller_is_the_first_of_those_that_may_be_served() -> None:
    queue = filled(("a", 1.0), ("b", 1.0), ("c", 1.0))
    assert queue.next_caller(lambda caller: True) == "a"
    assert queue.next_caller(lambda caller: caller != "a") == "b"
    assert queue.next_caller(lambda caller: False) is None
    assert queue.pop(cost=1.0, share_id="b") == ("b", 1.0)
    assert served(queue, 2) == "ac"
    assert queue.next_caller(lambda caller: True) is None


def test_the_waiting_cost_of_a_caller_is_that_of_its_items() -> None:
    queue = filled(("a", 1.0), ("b", 2.0), ("b", 3.0))
    assert queue.waiting_cost(Standing(share_id="b")) == 5.0
    served(queue, 2)
    assert queue.waiting_cost(Standing(share_id="b")) == 3.0
    assert queue.waiting_cost(Standing(share_id="nobody")) == 0.0
