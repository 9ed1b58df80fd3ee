import asyncio

import pytest

from model.training.rate_limit import RateLimit
from tests.clocks import Clock


def departures(rate: RateLimit, time: Clock, count: int) -> list[float]:
    async def leave() -> float:
        await rate.wait()
        return time.now

    async def leave_in_turn() -> list[float]:
        return [await leave() for _ in range(count)]

    return asyncio.run(leave_in_turn())


def test_30_requests_a_minute_leave_two_seconds_apart() -> None:
    time = Clock(100.0)
    rate = RateLimit(30, clock=time, sleep=time.sleep)
    assert departures(rate, time, 3) == [100.0, 102.0, 104.0]


def test_an_idle_minute_does_not_allow_a_burst() -> None:
    time = Clock(100.0)
    rate = RateLimit(30, clock=time, sleep=time.sleep)
    time.now = 160.0
    assert departures(rate, time, 2) == [160.0, 162.0]


def test_tokens_hold_later_requests_back() -> None:
    time = Clock(100.0)
    rate = RateLimit(60, tokens_per_minute=6_000, clock=time, sleep=time.sleep)
    assert departures(rate, time, 1) == [100.0]
    rate.charge(500)  # 5 s at 100 tokens a second, after the second that the request itself takes
    assert departures(rate, time, 1) == [106.0]


def test_without_a_token_limit_tokens_cost_no_time() -> None:
    time = Clock(100.0)
    rate = RateLimit(60, clock=time, sleep=time.sleep)
    rate.charge(1_000_000)
    assert departures(rate, time, 1) == [100.0]


def test_requests_that_come_together_leave_one_after_the_other() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def come_together(rate: RateLimit) -> None:
        await asyncio.gather(*(rate.wait() for _ in range(4)))

    asyncio.run(come_together(RateLimit(60, clock=lambda: 0.0, sleep=sleep)))
    assert slept == pytest.approx([1.0, 2.0, 3.0])
