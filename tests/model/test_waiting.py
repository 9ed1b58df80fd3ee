"""The helper of the tests on a card, tried without one."""

import warnings

import pytest
import torch

from tests.waiting import waiting_is_an_error


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes that were set, by a function that warns as torch's does: once, and after setting the mode."""
    modes: list[str] = []

    def set_sync_debug_mode(mode: str) -> None:
        modes.append(mode)
        if len(modes) == 1:
            warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=2)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_sync_debug_mode)
    return modes


def test_the_first_warning_of_torch_ends_no_test(modes: list[str]) -> None:
    with waiting_is_an_error("vision"):
        assert modes == ["error"]
    assert modes == ["error", "default"]


def test_the_mode_is_off_after_a_test_that_failed(modes: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), waiting_is_an_error("vision"):
        raise ZeroDivisionError
    assert modes == ["error", "default"]
