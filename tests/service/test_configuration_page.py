"""docs/configuration.md has every setting with its variable, its flag and its default."""

import re
from typing import Any

import pytest

from docs import write_configuration
from docs.write_configuration import PAGE, SECTIONS, configuration_page, shown_default
from service.settings import PREFIX, Settings


def test_the_page_is_written_from_the_settings() -> None:
    assert PAGE.read_text() == configuration_page(), "run: python -m docs.write_configuration"


def test_every_setting_has_one_row_below_a_heading() -> None:
    before, *sections = configuration_page().split("\n## ")
    assert [section.partition("\n")[0] for section in sections] == list(SECTIONS.values())
    assert f"`{PREFIX}MODEL`" not in before
    rows = [name for section in sections for name in re.findall(rf"^\| `{PREFIX}([A-Z_]+)` \|", section, re.MULTILINE)]
    assert rows == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("port", "8000"),
        ("max_in_flight_bytes", "536,870,912"),
        ("keep_ratio", "0.5"),
        ("tracing_documents", "`off`"),
        ("compile", "`auto`"),
        ("revision", ""),
        ("replica", ""),
        ("cors_origins", ""),
    ],
)
def test_defaults_are_shown_as_they_are_written(name: str, expected: str) -> None:
    assert shown_default(name) == expected


@pytest.mark.parametrize("value", ["on", "off", "true", "false", "1", "0"])
def test_switches_take_the_values_that_the_page_names(value: str) -> None:
    assert f"`{value}`" in configuration_page().partition("\n## ")[0]
    values: dict[str, Any] = {"tracing_documents": value}
    assert Settings(**values).tracing_documents == (value in ("on", "true", "1"))


def test_a_section_that_begins_with_no_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(write_configuration.SECTIONS, "no_such_setting", "Nothing")
    with pytest.raises(ValueError, match="no_such_setting"):
        configuration_page()
