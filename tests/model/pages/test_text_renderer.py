"""Printed text: where its ink is, how large it is, and that nothing makes it fail.

Measures are those of Pillow's own font, which is the same everywhere. `with_any_fonts` marks what holds for every font.
"""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from model.pages import typesetting
from model.pages.text_renderer import render_text
from model.pages.typesetting import Print
from tests.model.pages.fonts import installed, with_any_fonts

__all__ = ["installed"]

LINEAR_SECONDS = 20.0
"""Of processor time. A megabyte takes a tenth of a second; this is for any machine, and ends what grows with the square."""

WORDS_200 = " ".join(f"{word} {index}" for index, word in enumerate(["harbour", "mirror", "of", "temperature"] * 25))


def ink(page: Image.Image) -> np.ndarray:
    """Where the page is darker than grey, (height, width)."""
    dark: np.ndarray = np.asarray(page.convert("L")) < 128
    return dark


def bands(page: Image.Image) -> list[int]:
    """Heights of the runs of pixel rows with ink: about one a line of print."""
    rows = ink(page).any(axis=1).astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rows, [0]])))
    return [int(end - start) for start, end in edges.reshape(-1, 2)]


def test_a_page_is_rgb_black_on_white_and_has_the_size_asked_for() -> None:
    page = render_text("mirror", width=300, height=200)
    assert (page.mode, page.size) == ("RGB", (300, 200))
    assert (page.getpixel((0, 0)), page.getextrema()) == ((255, 255, 255), ((0, 255),) * 3)


def test_the_margin_stays_white() -> None:
    dark = ink(render_text(WORDS_200, width=280, height=280))
    assert not dark[:10].any()
    assert not dark[-10:].any()
    assert not dark[:, :9].any()
    assert not dark[:, -9:].any()


def test_short_text_is_printed_larger_than_long_text() -> None:
    heights = [max(bands(render_text(text, width=280, height=280))) for text in ("Harbour", WORDS_200[:200], WORDS_200)]
    assert heights[0] > heights[1] > heights[2]
    assert heights[0] <= 280 // 6 + 5  # a sixth of the edge at most, and what hangs below the line


@with_any_fonts
def test_text_fills_the_page_without_being_cut() -> None:
    """The last word is there; one pixel larger, and it would be missing."""

    def last_word_is_seen(font_size: int) -> bool:
        whole, shortened = (
            render_text(text, width=280, height=280, font_size=font_size)
            for text in (WORDS_200, WORDS_200.rpartition(" ")[0])
        )
        return whole.tobytes() != shortened.tobytes()

    page = render_text(WORDS_200, width=280, height=280).tobytes()
    [size] = [
        size for size in range(6, 280 // 6 + 1)
        if render_text(WORDS_200, width=280, height=280, font_size=size).tobytes() == page
    ]  # fmt: skip
    assert last_word_is_seen(size) and not last_word_is_seen(size + 1)


def test_lines_break_between_words_and_where_the_text_has_a_line_end() -> None:
    assert len(bands(render_text("HARBOUR MIRROR", width=150, height=400, font_size=20))) == 2
    assert len(bands(render_text("HARBOUR MIRROR", width=400, height=400, font_size=20))) == 1
    assert len(bands(render_text("HARBOUR\nMIRROR\r\nX", width=400, height=400, font_size=20))) == 3


def test_an_empty_line_is_kept_as_a_gap() -> None:
    tight, wide = (render_text(text, width=200, height=200, font_size=20) for text in ("H\nH", "H\n\nH"))
    last_tight, last_wide = (int(np.flatnonzero(ink(page).any(axis=1)).max()) for page in (tight, wide))
    assert last_wide > last_tight + 18


def test_a_word_longer_than_a_line_is_cut_into_lines() -> None:
    page = render_text("H" * 60, width=200, height=400, font_size=20)
    assert len(bands(page)) >= 4
    assert not ink(page)[:, -6:].any()


def test_what_does_not_fit_at_the_smallest_size_is_cut_at_the_bottom() -> None:
    long = render_text(WORDS_200 * 50, width=100, height=100)
    assert long.tobytes() == render_text(WORDS_200 * 51, width=100, height=100).tobytes()
    assert long.tobytes() == render_text(WORDS_200 * 50, width=100, height=100, font_size=6).tobytes()


def test_empty_text_is_a_white_page() -> None:
    for text in ("", " \n\t ", "\x00\x07", "\ufeff"):
        assert render_text(text, width=50, height=50).getextrema() == ((255, 255),) * 3


SCRIPTS = [
    "\ud800 lone surrogate", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好世界。",
    "😀👨\u200d👩\u200d👧", "\u0301" * 1000, "a\u202eb",
]  # fmt: skip


@pytest.mark.parametrize("text", SCRIPTS)
def test_any_script_leaves_ink(text: str) -> None:
    assert np.asarray(render_text(text, width=120, height=90)).min() < 128


@with_any_fonts
@pytest.mark.parametrize("text", SCRIPTS)
def test_any_script_can_be_printed(text: str) -> None:
    """How dark it gets is the font's affair, and so is what the font draws for a character that it lacks."""
    assert render_text(text, width=120, height=90).size == (120, 90)


@given(st.text(max_size=60), st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_no_text_and_no_size_fail(text: str, width: int, height: int) -> None:
    assert render_text(text, width=width, height=height).size == (width, height)


@pytest.mark.parametrize("text", [WORDS_200 * 800, "x" * 1_000_000, "\n" * 1_000_000, "\u0301" * 1_000_000])
def test_a_megabyte_costs_little_more_than_a_page(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond the page is cleaned, in a time that grows with the text, and then neither measured nor wrapped."""
    measured: list[int] = []
    measure = Print.measure

    def measure_and_count(print: Print, part: str) -> float:
        measured.append(len(part))
        return measure(print, part)

    monkeypatch.setattr(Print, "measure", measure_and_count)
    costs = []
    for length in (50_000, len(text)):
        measured.clear()
        started = time.process_time()
        render_text(text[:length], width=280, height=280)
        assert time.process_time() - started < LINEAR_SECONDS
        costs.append(sum(measured))
    assert costs[0] == costs[1]


def test_a_letter_is_measured_and_drawn_once_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring and drawing each line again would take ten times as long, for a page of 200 words."""
    calls: list[str] = []
    draw, getlength = ImageDraw.Draw, ImageFont.FreeTypeFont.getlength

    def draw_and_count(*given: Any) -> Any:
        calls.append("draw")
        return draw(*given)

    def measure_and_count(*given: Any) -> float:
        calls.append("measure")
        return getlength(*given)

    monkeypatch.setattr(ImageDraw, "Draw", draw_and_count)
    monkeypatch.setattr(ImageFont.FreeTypeFont, "getlength", measure_and_count)
    typesetting.faces.clear()
    render_text(WORDS_200, width=280, height=280, font_size=11)
    letters = len(set(WORDS_200))
    assert (calls.count("measure"), calls.count("draw")) == (letters, letters - 1)  # a space is measured only
    render_text(WORDS_200, width=280, height=280, font_size=11)
    assert len(calls) == 2 * letters - 1


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"width": 0, "height": 5}, "width is 0"),
        ({"width": 5, "height": -1}, "height is -1"),
        ({"width": 5, "height": 5, "font_size": 0}, "font_size is 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=f"{said}; it must be at least 1 pixel"):
        render_text("a", **sizes)
