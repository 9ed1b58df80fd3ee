import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.training.batches import BatchPlan, Visit, computed_ahead, hold_out, shuffle_candidates
from model.training.errors import DataError
from tests.model.training.tiny import make_example

PLAN = BatchPlan(example_count=10, seed=1, epochs=2, batch_size=2, accumulate_steps=2, process_count=1)


def visited(plan: BatchPlan, epoch: int) -> list[int]:
    """Examples in the order of steps, passes and processes."""
    steps = range(epoch * plan.steps_an_epoch, (epoch + 1) * plan.steps_an_epoch)
    return [
        visit.index
        for step in steps
        for index in range(plan.accumulate_steps)
        for process in range(plan.process_count)
        for visit in plan.passes(step, process)[index]
    ]


def test_an_epoch_is_filled_up_to_whole_steps_from_its_front() -> None:
    assert (PLAN.examples_a_step, PLAN.steps_an_epoch, PLAN.step_count) == (4, 3, 6)
    order = visited(PLAN, 0)
    assert sorted(order[:10]) == list(range(10)) and order[10:] == order[:2]


def test_epochs_and_seeds_have_orders_of_their_own_and_the_same_ones_every_time() -> None:
    orders = {tuple(visited(PLAN, 0)), tuple(visited(PLAN, 1)), tuple(visited(replace(PLAN, seed=2), 0))}
    assert len(orders) == 3
    assert visited(replace(PLAN), 1) == visited(PLAN, 1)


@given(st.integers(1, 30), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_processes_share_the_examples_that_one_process_would_see(
    count: int, batch_size: int, accumulate_steps: int, processes: int
) -> None:
    plan = replace(
        PLAN, example_count=count, batch_size=batch_size, accumulate_steps=accumulate_steps, process_count=processes
    )
    alone = replace(plan, batch_size=batch_size * processes, process_count=1)
    assert visited(plan, 1) == visited(alone, 1)
    assert set(visited(plan, 0)) == set(range(count))


def test_held_out_examples_are_not_learnt_from() -> None:
    examples = [make_example((20, 90), id=str(index)) for index in range(10)]
    learnt, held_out = hold_out(examples, 3, seed=0)
    assert len(held_out) == 3 and sorted([*learnt, *held_out], key=lambda e: int(e.id)) == examples
    assert hold_out(examples, 3, seed=0)[1] == held_out


def test_holding_out_everything_is_refused() -> None:
    with pytest.raises(DataError, match="held_out is 2, and there are 2 examples"):
        hold_out([make_example((20, 90))] * 2, 2, seed=0)


def test_shuffled_candidates_stay_ranked_as_before() -> None:
    example = make_example((20, 90, 160, 230))
    orders = {shuffle_candidates(example, Visit(epoch=epoch, index=0), seed=0).page_ids for epoch in range(20)}
    assert len(orders) > 5
    shuffled = shuffle_candidates(example, Visit(epoch=3, index=0), seed=0)
    assert [shuffled.page_ids[page] for page in shuffled.ranking] == ["230", "160", "90", "20"]
    assert shuffle_candidates(example, Visit(epoch=3, index=0), seed=0) == shuffled


def test_work_is_done_ahead_in_order_and_not_too_far() -> None:
    done: list[int] = []
    lock = threading.Lock()

    def square(value: int) -> int:
        with lock:
            done.append(value)
        return value * value

    results = computed_ahead(square, range(10), threads=3, ahead=2)
    assert next(results) == 0
    results.close()  # waits for what is under way
    assert set(done) <= {0, 1, 2}
    assert list(computed_ahead(square, range(5), threads=3, ahead=2)) == [0, 1, 4, 9, 16]


def test_a_fault_of_the_work_reaches_who_takes_it() -> None:
    def fail(value: int) -> int:
        raise DataError(f"example {value}")

    with pytest.raises(DataError, match="example 0"):
        list(computed_ahead(fail, range(3), threads=1, ahead=1))
