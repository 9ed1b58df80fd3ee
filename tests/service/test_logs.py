"""Lines that repeat."""

import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from service.logs import RepetitionFilter

_ALLOWED = 20


class _Log:
    """A logger of its own behind the filter, and a clock that the test sets."""

    def __init__(self, name: str) -> None:
        self.now = 0.0
        self.text = StringIO()
        self.logger = logging.getLogger(name)
        self.handler = logging.StreamHandler(self.text)
        self.handler.addFilter(RepetitionFilter(lambda: self.now))
        self.logger.addHandler(self.handler)
        self.logger.setLevel(logging.INFO)

    def lines(self) -> list[str]:
        return self.text.getvalue().splitlines()


@pytest.fixture(params=["asyncio", "tests.log"])
def log(request: pytest.FixtureRequest) -> Iterator[_Log]:
    made = _Log(request.param)
    yield made
    made.logger.removeHandler(made.handler)


def test_a_warning_that_repeats_is_left_out_and_counted(log: _Log) -> None:
    for minute in range(2):
        log.now = minute * 60.0
        for number in range(1000):
            log.logger.warning("number %d", number)
    lines = log.lines()
    assert len(lines) == 2 * _ALLOWED
    assert lines[0] == "number 0"
    assert lines[_ALLOWED - 1] == "number 19 (lines like it are left out for 60 s)"
    assert lines[_ALLOWED] == "number 0 (and 980 lines like it that were left out before)"


def test_other_places_and_lower_levels_are_not_touched(log: _Log) -> None:
    for number in range(100):
        log.logger.info("served %d", number)
        log.logger.warning("here")
    log.logger.error("there")
    assert [line for line in log.lines() if line.startswith("served")] == [f"served {number}" for number in range(100)]
    assert log.lines()[-1] == "there"


def test_the_kinds_of_asyncio_which_logs_all_from_one_place_are_told_apart() -> None:
    log = _Log("asyncio")
    try:
        for message in ["out of files\nsocket: 1"] * 100 + ["out of files\nsocket: 2", "a task failed"]:
            log.logger.error(message)
        assert "a task failed" in log.lines() and log.lines().count("socket: 1") < 100
        assert "socket: 2" not in log.lines()
    finally:
        log.logger.removeHandler(log.handler)
