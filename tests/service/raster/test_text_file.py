"""Texts in the worker: pages of pixels, or a code that says why there are none."""

import numpy as np
import pytest

from model.pages.text_layout import TextPages
from model.pages.text_renderer import render_text
from service.raster.page import MAX_TEXT_PAGES, SINGLE_PAGE_OUTLINE, PagePixels, RasterFailure
from service.raster.text_file import TextFile, outline_of_text

PASSAGE = "The harbour lies on the northern side of the bay, and boats leave at dawn. "


def pixels(page: PagePixels) -> np.ndarray:
    return np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)


def test_short_text_is_one_page_without_a_number() -> None:
    text = TextFile(PASSAGE.encode())
    assert (text.page_count, text.is_paged) == (1, False)
    assert np.array_equal(pixels(text.render(1)), np.asarray(render_text(PASSAGE, width=280, height=280)))


def test_long_text_has_numbered_pages() -> None:
    text = TextFile((PASSAGE * 500).encode())
    assert text.page_count > 1 and text.is_paged
    first, last = text.render(1), text.render(text.page_count)
    assert (first.width, first.height, last.width, last.height) == (1024,) * 4
    assert first.data != last.data
    text.close()


@pytest.mark.parametrize("data", ["", " \n", "\x00\x1f", "\u200b\u2060", "\u3164 \u2800\uffa0", "\ufeff" * 5_000])
def test_nothing_to_draw_is_an_empty_text(data: str) -> None:
    with pytest.raises(RasterFailure, match="empty_text"):
        TextFile(data.encode())


def test_white_page_is_an_empty_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of characters that a font draws alone, but not beside others: which they are depends on the font."""
    monkeypatch.setattr(TextPages, "has_ink", lambda pages: True)
    with pytest.raises(RasterFailure, match="empty_text"):
        TextFile(b" ").render(1)


def test_text_with_too_many_pages_is_refused() -> None:
    with pytest.raises(RasterFailure, match="too_many_pages"):
        TextFile(b"a\n" * 60 * 10 * MAX_TEXT_PAGES)


def test_text_of_which_part_has_no_font_is_degraded() -> None:
    assert TextFile(b"harbour").render(1).degraded_reasons == ()
    assert TextFile("harbour \U000f1234".encode()).render(1).degraded_reasons == ("characters",)


def test_bytes_that_are_no_utf_8_are_drawn_as_signs_of_damage() -> None:
    """The parent encodes every text, so only a fault of its own sends such bytes."""
    assert TextFile(b"harbour \xff").render(1).data == TextFile("harbour \ufffd".encode()).render(1).data


def test_only_a_short_text_has_an_outline_before_it_is_opened() -> None:
    assert outline_of_text(PASSAGE) == SINGLE_PAGE_OUTLINE
    assert outline_of_text(PASSAGE * 50) is None and outline_of_text("a\n" * 50) is None
