import pytest

from service.errors import UnavailableError
from service.lifecycle import Lifecycle


def test_nothing_is_accepted_while_the_model_loads() -> None:
    with pytest.raises(UnavailableError) as refusal:
        Lifecycle().check_accepting()
    assert refusal.value.code == "not_ready"


def test_a_draining_service_is_not_ready_and_still_accepts() -> None:
    lifecycle = Lifecycle()
    lifecycle.become_ready()
    lifecycle.drain()
    assert not lifecycle.is_ready
    lifecycle.check_accepting()
    lifecycle.refuse()
    with pytest.raises(UnavailableError) as refusal:
        lifecycle.check_accepting()
    assert refusal.value.code == "draining"


def test_a_drain_that_begins_while_the_model_loads_refuses_and_is_not_undone() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.become_ready()
    assert not lifecycle.is_ready
    with pytest.raises(UnavailableError):
        lifecycle.check_accepting()


def test_a_failed_service_says_so() -> None:
    lifecycle = Lifecycle()
    lifecycle.become_ready()
    lifecycle.fail()
    with pytest.raises(UnavailableError) as refusal:
        lifecycle.check_accepting()
    assert refusal.value.code == "gpu_failed"
