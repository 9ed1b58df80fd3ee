"""`ziprerank demo`, which a newcomer runs first."""

import pymupdf
import pytest

from service.commands.demo import PDF, QUERY, run_demo


def test_the_page_with_the_words_of_the_query_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pymupdf.open(PDF) as document:
        right = [page.number + 1 for page in document if set(QUERY.split()) <= set(page.get_text().lower().split())]
    assert len(right) == 1
    assert run_demo() == 0
    shown = capsys.readouterr().out
    first = next(line for line in shown.splitlines() if line.split()[:1] == ["1"])
    assert first.split()[-1].endswith(f"page={right[0]}")
    assert "small demo model" in shown
