"""The pages that requests hold in memory: bounded in all, and no caller can take all of them from the others."""

import pytest

from service.documents.held_pages import HeldPages
from service.errors import OverloadedError


def test_pages_are_held_up_to_the_limit_and_given_back() -> None:
    held = HeldPages(10)
    with held.share("a") as first, held.share("a") as second:
        first.take(6)
        second.take(4)
        with (
            held.share("a") as third,
            pytest.raises(OverloadedError, match="hold 10 new pages, this one has 1") as refused,
        ):
            third.take(1)
        assert refused.value.retry_after_seconds is not None
        assert held.pages == 10
    assert held.pages == 0
    with held.share("a") as again:
        again.take(10)


def test_the_first_request_may_hold_any_number() -> None:
    held = HeldPages(10)
    with held.share("a") as large, held.share("b") as small:
        large.take(50)
        with pytest.raises(OverloadedError):
            small.take(1)


def test_another_caller_finds_room_beside_a_flood() -> None:
    held = HeldPages(10)
    with held.share("flood") as flood, held.share("other") as other:
        flood.take(10)
        other.take(5)
        with pytest.raises(OverloadedError):
            flood.take(1)
        flood.take(0)  # all of its pages are in the cache
        assert held.pages == 15
