"""The gate that keeps cores free for short windows: whom it lets in, and for how long it may be closed."""

import pytest

from service.host_gate import OPEN, HostGate
from tests.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> HostGate:
    made = HostGate(clock=clock)
    made.enable()
    return made


def test_until_it_is_enabled_it_stays_open(clock: Clock) -> None:
    gate = HostGate(clock=clock)
    gate.close_for("a")
    assert gate.state() is OPEN


def test_it_lets_in_those_for_whom_it_is_closed_and_no_others(gate: HostGate) -> None:
    assert not gate.state().keeps_out("c")
    gate.close_for("a")
    gate.close_for("b")
    state = gate.state()
    assert [state.keeps_out(share_id) for share_id in "abc"] == [False, False, True]


def test_it_opens_after_the_last_of_several_closings(gate: HostGate) -> None:
    changes: list[bool] = []
    gate.on_change(lambda: changes.append(gate.state() is OPEN))
    for _ in range(2):
        gate.close_for("a")
    for _ in range(2):
        gate.open_after("a")
    assert changes == [False, True]


def test_over_a_long_time_it_is_open_half_of_the_time(gate: HostGate, clock: Clock) -> None:
    open_seconds = 0.0
    for _ in range(1000):  # somebody always wants it closed
        gate.close_for("a")
        while (seconds := gate.state().seconds) is not None:
            clock.now += seconds
        clock.now += 0.25
        open_seconds += 0.25
        gate.open_after("a")
        clock.now += 0.25
        open_seconds += 0.25
    assert open_seconds >= clock.now / 2 - 1


def test_it_opens_by_itself_after_a_second(gate: HostGate, clock: Clock) -> None:
    gate.close_for("a")
    assert gate.state().seconds == pytest.approx(1)
    clock.now = 1
    assert gate.state() is OPEN
    gate.open_after("a")
    clock.now = 1.5
    gate.close_for("a")
    assert gate.state().seconds == pytest.approx(0.5), "it was open for no longer before"
