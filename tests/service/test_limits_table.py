"""SECURITY.md has every limit with its default."""

import pytest

from docs.write_limits import PAGE, limits_table, updated
from service.settings import LIMITS


def test_the_table_is_written_from_the_settings() -> None:
    text = PAGE.read_text()
    assert updated(text) == text, "run: python -m docs.write_limits"


def test_a_limit_is_a_row_with_its_default() -> None:
    table = limits_table()
    assert "| `ZIPRERANK_MAX_BODY_BYTES` | 33,554,432 | size of a request |" in table
    assert table.count("\n| `ZIPRERANK_") == len(LIMITS)


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs the marks"):
        updated("nothing")
