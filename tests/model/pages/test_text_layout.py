"""Texts on pages: the size of the square and of the print, the number of pages, and that no word is lost.

Sizes are those of Pillow's own font, which is the same everywhere. `with_any_fonts` marks what holds for every font.
"""

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageChops

from model.pages import fonts, text_layout
from model.pages.text_layout import TextPages, TooManyTextPagesError, is_short
from model.pages.text_page_format import PUBLISHED_TEXT_PAGE, TextPageFormat
from model.pages.text_renderer import render_text
from model.pages.typesetting import SMALLEST_FONT, Canvas, Print, Typeface, clean, lay_out, lay_out_largest, words_of
from tests.model.pages.fonts import installed, pillows_own_font, with_any_fonts

__all__ = ["installed"]

PAGE_SECONDS = 20.0
"""Of processor time, for opening a text and for each page. It takes a second at most; this is for any machine."""

PASSAGE = (
    "The harbour of the old town lies on the northern side of the bay, where the river brings fresh water down from the "
    "hills. In summer the boats leave at dawn and return before the heat of noon, and the market on the quay sells what they "
    "have caught until the evening. Visitors can walk along the wall to the lighthouse, which was built in 1871 after a storm "
    "had destroyed the wooden tower that stood there before. From the gallery at the top one sees three islands on a clear "
    "day, and the keeper, whose family has held the post for generations, still tells their stories."
)
ALPHABETS = [
    "abcdefghij",
    "港口在海湾的北边",
    "абвгдежзик",
    "كلمةطويلةجدا",
    "שלוםעולםטוב",
    "नमस्तेदुनिया",
    "สวัสดีชาวโลก",
    "\ue000\ue001",
    "a\u0301",
]


HELD_PRINT = PUBLISHED_TEXT_PAGE.smallest_print
SIZES = range(SMALLEST_FONT, 47)


def pages_of(text: str, *, most_pages: int = 50) -> TextPages:
    return TextPages(text, most_pages=most_pages)


def edge(pages: TextPages) -> int:
    page = pages.draw(1)
    assert page.width == page.height and page.mode == "RGB"
    return page.width


def letters_on(pages: TextPages) -> str:
    """The letters of all pages in order, without spaces."""
    return "".join("".join(line.split()) for lines in pages._pages for line in lines)


@with_any_fonts
def test_a_short_text_is_the_page_of_the_first_training_stage() -> None:
    for words in (1, 3, 10, 25, 60):
        text = " ".join(PASSAGE.split()[:words])
        assert pages_of(text).draw(1).tobytes() == render_text(text, width=280, height=280).tobytes()


def test_the_held_print_is_that_of_a_hundred_words() -> None:
    paragraph = list(words_of(PASSAGE, longest=260))
    layout = lay_out_largest([paragraph], Typeface(PASSAGE), Canvas(width=280, height=280), SIZES)
    assert len(PASSAGE.split()) == 107 and layout is not None and layout.print.size == HELD_PRINT


@with_any_fonts
def test_the_square_grows_in_steps_and_the_print_is_held() -> None:
    edges = [edge(pages_of(" ".join([PASSAGE] * count))) for count in (1, 2, 3, 5, 7, 9)]
    assert edges == sorted(set(edges)) and edges[-1] > 600
    assert all((each - 280) % 28 == 0 for each in edges)
    assert pages_of(PASSAGE * 4)._print.size == HELD_PRINT


def test_the_square_is_the_smallest_that_holds_the_text() -> None:
    for count in range(2, 10):
        text = " ".join([PASSAGE] * count)
        pages = pages_of(text)
        smaller = Canvas(width=edge(pages) - 28, height=edge(pages) - 28)
        paragraph = list(words_of(text, longest=4096))
        assert not lay_out([paragraph], Typeface(text).at(HELD_PRINT), smaller).is_complete


def test_a_long_text_takes_several_pages_of_the_largest_size() -> None:
    pages = pages_of(" ".join([PASSAGE] * 60))
    assert 3 <= pages.page_count <= 6
    assert {pages.draw(number).size for number in range(1, pages.page_count + 1)} == {(1024, 1024)}
    assert pages.draw(1).tobytes() != pages.draw(2).tobytes()


@with_any_fonts
@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_no_letter_is_lost(alphabet: str) -> None:
    """Whatever the script, the length of the words and the number of pages."""
    chance = random.Random(alphabet)
    for words, longest in ((1, 5), (1, 600), (40, 9), (300, 9), (30, 300), (3_000, 12), (2, 30_000)):
        text = " ".join(
            "".join(chance.choices(alphabet, k=chance.randint(max(1, longest // 2), longest))) for _ in range(words)
        )
        pages = pages_of(text)
        assert letters_on(pages) == "".join(clean(text).split())
        assert all(pages._print.shaped_width(line) <= pages._canvas.text_width
                   for lines in pages._pages[:2] for line in lines) or not pages._typeface.is_shaped  # fmt: skip


SHEET = TextPageFormat(width=448, height=640, smallest_print=18, largest_print=34, longest_edge=640)
"""A page that does not grow."""


def test_another_format_has_its_own_page_and_print() -> None:
    one, full, many = (TextPages(PASSAGE * count, most_pages=9, format=SHEET) for count in (1, 2, 5))
    assert one.draw(1).size == full.draw(1).size == many.draw(2).size == (448, 640)
    assert (one.page_count, full.page_count) == (1, 1) and many.page_count > 2
    assert 18 <= full._print.size < one._print.size <= 34 and many._print.size == 18
    assert letters_on(many) == "".join((PASSAGE * 5).split())
    assert TextPages("harbour", most_pages=1, format=SHEET)._print.size == 34


def test_a_page_of_another_shape_keeps_it_as_it_grows() -> None:
    tall = replace(PUBLISHED_TEXT_PAGE, width=140)
    sizes = [TextPages(PASSAGE * count, most_pages=9, format=tall).draw(1).size for count in (1, 3, 6)]
    assert sizes == sorted(set(sizes)) and all(height == 2 * width for width, height in sizes)


def test_runs_of_blank_lines_become_one() -> None:
    tight, wide = (pages_of(f"harbour{gap}mirror").draw(1) for gap in ("\n\n", "\r\n \n\t\n\n\n"))
    assert ImageChops.difference(tight, wide).getbbox() is None
    assert tight.tobytes() != pages_of("harbour\nmirror").draw(1).tobytes()


def test_a_letter_wider_than_a_line_makes_the_print_smaller() -> None:
    """Some fonts have characters ten times as wide as high, which would be cut off at the right."""
    wide = Typeface("m")
    wide.at(46)._face.advances["m"] = 300.0
    layout = lay_out_largest([[("m", True)]], wide, Canvas(width=280, height=280), SIZES)
    assert layout is not None and SMALLEST_FONT <= layout.print.size < 46 and layout.is_complete


@pytest.mark.parametrize("text", ["", " \n ", "\x00\x07", "\u200b\ufeff", "\u3164\u2800", "\u115f\u00ad"])
def test_nothing_visible_leaves_no_ink(text: str) -> None:
    pages = pages_of(text)
    assert not pages.has_ink() and pages.draw(1).getextrema() == ((255, 255),) * 3


def test_what_is_visible_leaves_ink() -> None:
    assert all(pages_of(text).has_ink() for text in ("a", " \u3164.", "\ue000", "中", "\u200b\n-"))


def test_boxes_are_reported_on_their_own_page_only() -> None:
    pages = pages_of(" ".join([PASSAGE] * 40) + " 中")
    assert [pages.lacks_characters(number) for number in range(1, pages.page_count + 1)] == [
        False
    ] * (pages.page_count - 1) + [True]  # fmt: skip
    boxed = pages_of("中")
    assert boxed.lacks_characters(1) and boxed.draw(1).tobytes() == pages_of("\ue000").draw(1).tobytes()


def test_a_character_that_one_font_lacks_is_drawn_with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a box, and the page is not called degraded. Both fonts are the same here, so the page is that of one font."""
    expected = pages_of("harbour Quay").draw(1)
    lacking = {tmp_path / "a.ttf": "Q", tmp_path / "b.ttf": "h"}
    for path in lacking:
        path.write_bytes(pillows_own_font())
    monkeypatch.setattr(fonts, "installed_fonts", lambda: tuple(lacking))
    whole = fonts.coverage_of(None)

    def coverage_without(path: Path | None) -> fonts.Coverage:
        codes = (code for first, last in whole.ranges() for code in range(first, last + 1))
        return fonts.Coverage((code, code) for code in codes if path in lacking and chr(code) not in lacking[path])

    monkeypatch.setattr(fonts, "coverage_of", coverage_without)
    fonts._first_owners.cache_clear()
    pages = pages_of("harbour Quay")
    assert pages._typeface.path_of["Q"] == tmp_path / "b.ttf" and pages._typeface.first == tmp_path / "a.ttf"
    assert not pages.lacks_characters(1)
    assert ImageChops.difference(pages.draw(1), expected).getbbox() is None


def test_a_font_that_was_removed_since_it_was_listed_costs_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an update of packages while a worker runs."""
    font = tmp_path / "a.ttf"
    font.write_bytes(pillows_own_font())
    monkeypatch.setattr(fonts, "installed_fonts", lambda: (font,))
    assert pages_of("harbour")._typeface.first == font
    font.unlink()
    pages = pages_of("harbour mirror of the old town")
    assert pages._typeface.first == font and pages.has_ink()


def test_pages_beyond_the_bound_are_refused() -> None:
    for text in ("a\n" * 20_000, PASSAGE * 2_000, "x" * 2_000_000, "\n" * 3_000_000 + "b"):
        with pytest.raises(TooManyTextPagesError):
            pages_of(text, most_pages=20)
    assert pages_of("a\n" * 600, most_pages=20).page_count > 1


@with_any_fonts
def test_short_texts_have_one_page() -> None:
    """Those of which it is said without laying them out: words and lines of every length, at the edge of the bound."""
    for longest in (1, 2, 9, 30, 140, 2_000):
        for breaks in (0, 5, 20):
            words = ("m" * longest + " ") * (1_100 // (longest + 1) + 1)
            text = next(cut for end in range(1_100, 0, -10) if is_short(cut := words[:end] + "\nm" * breaks))
            assert len(text) > 300
            pages = TextPages(text, most_pages=1)
            assert pages.page_count == 1 and pages._print.size >= HELD_PRINT


def test_a_short_text_has_one_page_in_a_font_as_wide_as_high_with_lines_of_twice_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_up = Print.__init__

    def set_up_wide(print: Print, *given: Any, **named: Any) -> None:
        set_up(print, *given, **named)
        print.line_height, print._advance_of = 2 * print.size, lambda character: float(print.size)

    monkeypatch.setattr(Print, "__init__", set_up_wide)
    for longest in (1, 5, 36, 37, 60, 2_000):
        for breaks in (0, 10, 30):
            words = ("m" * longest + " ") * (2_000 // (longest + 1) + 1)
            text = next(cut for end in range(2_000, 0, -1) if is_short(cut := words[:end] + "\nm" * breaks))
            pages = TextPages(text, most_pages=1)
            assert pages.page_count == 1 and pages._print.size >= HELD_PRINT


def test_a_passage_is_short_and_a_long_or_broken_text_is_not() -> None:
    assert is_short(PASSAGE) and is_short("a\n" * 20)
    assert not is_short(PASSAGE * 3) and not is_short("a\n" * 40)


def test_a_short_text_in_a_huge_font_is_shrunk_to_its_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is told that it has one page, so the rest would be lost."""
    monkeypatch.setattr(text_layout, "is_short", lambda text: True)
    huge = replace(PUBLISHED_TEXT_PAGE, smallest_print=60, largest_print=70)
    pages = TextPages(PASSAGE * 4, most_pages=1, format=huge)
    assert pages.page_count == 1 and edge(pages) == 1024
    assert letters_on(pages) == "".join((PASSAGE * 4).split())


HOSTILE = {
    "words": PASSAGE * 1_750,
    "one word": "x" * 1_000_000,
    "marks": "\u0301\u0316" * 250_000,
    "60,000 characters": "".join(map(chr, [*range(0x21, 0xD7FF), *range(0xE000, 0xF000)])) * 6,
    "private use": "".join(map(chr, range(0xE000, 0xF8FF))) * 52,
    "emoji": "\U0001f600\u200d\U0001f468" * 100_000,
    "Arabic": "مرحبا بالعالم هذا نص طويل " * 22_000,
    "one Arabic word": "مرحباب" * 85_000,
    "Chinese": "你好世界。" * 66_000,
    "Thai": "สวัสดีชาวโลก" * 27_000,
    "controls": "\x01a" * 500_000,
    "overrides": "\u202ea\u202cש" * 100_000,
}


@with_any_fonts
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_megabyte_of_anything_is_opened_and_drawn_in_bounded_time(text: str) -> None:
    started = time.process_time()
    pages = pages_of(text, most_pages=200)
    assert time.process_time() - started < PAGE_SECONDS
    started = time.process_time()
    pages.draw(pages.page_count // 2 + 1)
    assert time.process_time() - started < PAGE_SECONDS
