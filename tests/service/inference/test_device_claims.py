"""The device time that others have claimed, and how it passes."""

import pytest

from service.inference.device_claims import DeviceClaims
from tests.clocks import Clock


def test_a_window_waits_for_the_windows_of_others_that_come_before_it() -> None:
    claims = DeviceClaims(Clock())
    with claims.claimed(4.0, windows=1), claims.claimed(10.0, windows=5):
        assert claims.wait_seconds(1) == pytest.approx(4.0 + 2.0)
        assert claims.wait_seconds(3) == pytest.approx(4.0 + 6.0)
        assert claims.wait_seconds(9) == pytest.approx(4.0 + 10.0)


def test_a_request_does_not_wait_for_itself() -> None:
    claims = DeviceClaims(Clock())
    with claims.claimed(4.0, windows=1) as own, claims.claimed(1.0, windows=1):
        assert claims.wait_seconds(1, besides=own) == pytest.approx(1.0)


def test_claims_shrink_as_time_passes_and_end_with_their_request() -> None:
    clock = Clock()
    claims = DeviceClaims(clock)
    with claims.claimed(4.0, windows=1):
        with claims.claimed(1.0, windows=1):
            clock.now = 1.0
            assert claims.wait_seconds(1) == pytest.approx(3.5 + 0.5)
            clock.now = 3.0
            assert claims.wait_seconds(1) == pytest.approx(2.0)
        assert claims.wait_seconds(1) == pytest.approx(2.0)
    assert claims.wait_seconds(1) == 0


def test_a_window_that_runs_on_is_waited_for_until_its_time_is_over() -> None:
    clock = Clock()
    claims = DeviceClaims(clock)
    with claims.claimed(4.0, windows=1) as claim:
        claim.goes_on = True
    clock.now = 3.0
    assert claims.wait_seconds(1) == pytest.approx(1.0)
    clock.now = 9.0
    assert claims.wait_seconds(1) == 0
