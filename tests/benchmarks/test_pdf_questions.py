import numpy as np
import pytest

from benchmarks.pdf_questions import PdfPage, deal_questions, read_pages
from tests.data.make_browser_pdfs import CALENDAR


def page(number: int, *words: str) -> PdfPage:
    return PdfPage(document="a.pdf", number=number, pixels=np.zeros((1, 1, 3), np.uint8), words=frozenset(words))


PAGES = [page(number, "every", f"first{number}", f"second{number}", f"third{number}", "rare") for number in range(6)]


def test_only_the_right_page_has_all_words_of_the_query() -> None:
    for question in deal_questions(PAGES, count=30, candidates=4, seed=1):
        asked = set(question.query.split())
        assert [asked <= PAGES[place].words for place in question.pages].index(True) == question.right
        assert sum(asked <= PAGES[place].words for place in question.pages) == 1
        assert len(set(question.pages)) == 4


def test_queries_have_two_three_and_four_words_in_turn() -> None:
    lengths = [len(question.query.split()) for question in deal_questions(PAGES, count=6, candidates=2, seed=1)]
    assert lengths == [2, 3, 4, 2, 3, 4]


def test_only_known_words_are_asked_for() -> None:
    known = {"every", *(f"first{number}" for number in range(6)), *(f"third{number}" for number in range(6)), "rare"}
    for question in deal_questions(PAGES, count=12, candidates=3, seed=2, known=known):
        assert set(question.query.split()) <= known


def test_pages_that_cannot_be_told_apart_are_refused() -> None:
    alike = [page(number, "one", "two", "three", "four") for number in range(5)]
    with pytest.raises(ValueError, match="5 pages give no query of 2 words on one of 5 pages"):
        deal_questions(alike, count=1, candidates=5, seed=1)


def test_pages_of_a_pdf_come_with_their_words_as_the_service_renders_them() -> None:
    pages = read_pages([CALENDAR])
    assert [each.number for each in pages] == list(range(1, 13))
    assert {"april", "rain", "likely", "sponsor"} <= pages[3].words
    assert pages[3].pixels.shape[0] == 1024
    assert pages[3].pixels.min() < 100 < pages[3].pixels.max()
