"""Printed text: where its ink is, how large it is, and that nothing makes it fail."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.fonts import character_codes, choose_font, installed_fonts, load_font
from model.text_renderer import render_text

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


def test_text_fills_the_page_without_being_cut() -> None:
    """One pixel larger, and the last line would be missing."""
    page = render_text(WORDS_200, width=280, height=280)
    bottom = int(np.flatnonzero(ink(page).any(axis=1)).max())
    assert 280 * 0.75 < bottom < 280 - 9


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


@pytest.mark.parametrize(
    "text",
    [
        "\ud800 lone surrogate", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好世界。",
        "😀👨\u200d👩\u200d👧", "\u0301" * 1000, "a\u202eb",
    ],
)  # fmt: skip
def test_any_script_leaves_ink(text: str) -> None:
    assert np.asarray(render_text(text, width=120, height=90)).min() < 128


@given(st.text(max_size=60), st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_no_text_and_no_size_fail(text: str, width: int, height: int) -> None:
    assert render_text(text, width=width, height=height).size == (width, height)


@pytest.mark.parametrize("text", [WORDS_200 * 800, "x" * 1_000_000, "\n" * 1_000_000, "\u0301" * 1_000_000])
def test_a_megabyte_costs_little_more_than_a_page(text: str) -> None:
    started = time.process_time()
    render_text(text, width=280, height=280)
    assert time.process_time() - started < 1.0


def test_a_page_of_200_words_takes_far_less_than_50_ms() -> None:
    render_text(WORDS_200, width=280, height=280)  # letters are drawn once a size
    started = time.process_time()
    for _ in range(5):
        render_text(WORDS_200, width=280, height=280)
    assert (time.process_time() - started) / 5 < 0.03


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
        render_text("a", **sizes)  # type: ignore[arg-type]


def test_fonts_are_listed_the_preferred_ones_first() -> None:
    fonts = installed_fonts()
    assert all(isinstance(path, Path) and path.exists() for path in fonts)
    assert len(set(fonts)) == len(fonts)
    names = [path.stem.lower() for path in fonts]
    preferred = [index for index, name in enumerate(names) if name in ("notosans-regular", "dejavusans", "arial")]
    assert preferred == sorted(preferred)
    assert not preferred or preferred[0] == 0


def test_the_font_chosen_has_the_characters_where_one_has() -> None:
    for characters in ("Harbour", "Ünïcödé", "Привет"):
        have_all = [
            font for font in (*installed_fonts(), None) if {ord(c) for c in characters} <= character_codes(font)
        ]
        if have_all:
            assert choose_font(frozenset(characters)) == have_all[0]


def test_a_font_with_more_of_the_characters_wins_over_an_earlier_one() -> None:
    chosen = choose_font(frozenset("ab\U0010fffe"))  # which no font has
    assert {ord("a"), ord("b")} <= character_codes(chosen)
    assert chosen == choose_font(frozenset("ab"))


def test_a_character_map_says_what_the_font_can_draw() -> None:
    """Pillow's own font is the same everywhere: its sign for a missing glyph is drawn for exactly what the map lacks."""
    codes = character_codes(None)
    font = load_font(None, 30, 0)  # type: ignore[arg-type]
    missing = bytes(font.getmask("\U0010ffff"))
    for character in "Aazé€жع中":
        assert (ord(character) in codes) == (bytes(font.getmask(character)) != missing), character


def test_a_damaged_font_has_no_characters(tmp_path: Path) -> None:
    for name, content in {"a.ttf": b"", "b.ttf": b"\x00\x01\x00\x00\x00\x09", "c.ttf": b"ttcf" + b"\xff" * 20}.items():
        (tmp_path / name).write_bytes(content)
        assert character_codes(tmp_path / name) == frozenset()
