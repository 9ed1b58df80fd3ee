"""Pages in a minute: a minute's pages at once, then evenly, for each caller with a limit."""

import pytest

from service.errors import OverloadedError
from service.inference.page_rates import PageRates
from service.records import Caller, CallerLimits
from tests.clocks import Clock


def caller(id: str = "team", limit: int | None = 60) -> Caller:
    return Caller(id=id, tenant=b"", limits=CallerLimits(max_pages_per_minute=limit))


def test_pages_come_back_evenly_after_a_minutes_pages_were_used() -> None:
    clock = Clock()
    rates = PageRates(clock)
    rates.spend(caller(), 60)
    with pytest.raises(OverloadedError) as refusal:
        rates.spend(caller(), 10)
    assert refusal.value.retry_after_seconds == 10
    clock.now += 10.0
    rates.spend(caller(), 10)
    with pytest.raises(OverloadedError):
        rates.spend(caller(), 1)


def test_a_refused_request_takes_no_page() -> None:
    rates = PageRates(Clock())
    rates.spend(caller(), 50)
    with pytest.raises(OverloadedError):
        rates.spend(caller(), 11)
    rates.spend(caller(), 10)


def test_a_request_above_the_limit_takes_a_whole_minute() -> None:
    clock = Clock()
    rates = PageRates(clock)
    rates.spend(caller(), 500)
    clock.now += 59.0
    with pytest.raises(OverloadedError):
        rates.spend(caller(), 500)
    clock.now += 1.0
    rates.spend(caller(), 500)


def test_callers_do_not_take_each_others_pages_and_those_without_a_limit_have_none() -> None:
    rates = PageRates(Clock())
    rates.spend(caller("a"), 60)
    rates.spend(caller("b"), 60)
    for _ in range(3):
        rates.spend(caller("c", limit=None), 1000)
