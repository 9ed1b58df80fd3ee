"""docs/errors.md has every code that the service sends, and nothing else."""

import re

from docs.write_errors import PAGE, codes_by_status, error_page
from service.error_meanings import MEANINGS
from service.settings import PREFIX, Settings


def test_every_code_has_a_meaning_and_every_meaning_a_code() -> None:
    codes = [code for codes in codes_by_status().values() for code in codes]
    assert set(MEANINGS) == set(codes) and len(codes) == len(set(codes))


def test_the_page_is_written_from_the_code() -> None:
    assert PAGE.read_text() == error_page(), "run: python -m docs.write_errors"


def test_settings_that_a_meaning_names_exist() -> None:
    named = {name for meaning in MEANINGS.values() for name in re.findall(r"`([A-Z_]+)`", meaning.when)}
    assert "MAX_BODY_BYTES" in named
    assert {name.removeprefix(PREFIX).lower() for name in named} <= set(Settings.model_fields)


def test_what_passes_by_itself_is_worth_a_second_attempt() -> None:
    """As the headers say: `Retry-After` comes with 429 and 503."""
    for status, codes in codes_by_status().items():
        for code in codes:
            if status in (429, 503):
                assert MEANINGS[code].retry != "no", code
            if status in (400, 401, 404, 405, 413, 415):
                assert MEANINGS[code].retry == "no", code
