"""Lays a text of any length out on square pages, as the pages of the model's first training stage are: see `TextPages`."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from PIL import Image

from model.pages.image import LONGEST_PAGE_EDGE
from model.pages.typesetting import (
    Canvas,
    Layout,
    Typeface,
    clean,
    draw_page,
    lay_out,
    lay_out_largest,
    most_lines,
    words_of,
)

SHORTEST_PAGE_EDGE = 280
"""In pixels: of the square page that a passage gets in the first training stage."""

HELD_PRINT = 13
"""In pixels: the print that the page is enlarged to keep. `render_text` gives it to a passage of 107 English words (569
characters) on 280 px in Noto Sans, DejaVu Sans, DejaVu Serif and Pillow's own font; 12 px in Noto Serif, 14 in Liberation."""

_EDGE_STEP = 28
_EDGES = (*range(SHORTEST_PAGE_EDGE, LONGEST_PAGE_EDGE, _EDGE_STEP), LONGEST_PAGE_EDGE)
_LARGEST = Canvas(width=LONGEST_PAGE_EDGE, height=LONGEST_PAGE_EDGE)
_BLANK_LINES = re.compile(r"\n(?: ?\n)+")
_LONGEST_PIECE = 4096
_MOST_CHARACTERS_A_PAGE = 10_000  # English in the narrowest common font has 8,900
_MOST_SHORT_CHARACTERS = 2_000
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class TooManyTextPagesError(ValueError):
    """The text fills more pages than are allowed."""


class TextPages:
    """The pages of a text, all of which is on them.

    The text is printed as large as fits a square of 280 px. Where the print would be smaller than `HELD_PRINT`, it has that
    size and the square grows, to 1,024 px; a longer text takes several pages of that size. A text of which `is_short` holds
    has one page. Several blank lines in a row become one; other runs of spaces become one space.
    """

    def __init__(self, text: str, *, most_pages: int) -> None:
        """Takes at most a second or two for a hundred pages, whatever the text.

        Raises: TooManyTextPagesError for more than `most_pages`, or 10,000 characters for each of them.
        """
        if len(text) > most_pages * _MOST_CHARACTERS_A_PAGE:
            raise TooManyTextPagesError
        cleaned = _BLANK_LINES.sub("\n\n", clean(text))
        self._typeface = Typeface(cleaned)
        one = self._one_page(cleaned)
        if one is None and is_short(text):
            one = _LARGEST, self._shrunk_page(cleaned)
        self._pages: Sequence[Sequence[str]]
        if one is not None:
            self._canvas, layout = one
            self._print, self._pages = layout.print, [layout.lines]
        else:
            self._canvas, self._print = _LARGEST, self._typeface.at(HELD_PRINT)
            self._pages = list(self._several_pages(cleaned, most_pages))

    @property
    def page_count(self) -> int:
        return len(self._pages)

    def has_ink(self) -> bool:
        """Whether anything is visible on the pages."""
        return self._typeface.has_ink()

    def lacks_characters(self, number: int) -> bool:
        """Whether page `number` (1-based) has boxes in place of characters that no font of this machine has."""
        missing = self._typeface.missing
        return bool(missing) and any(not missing.isdisjoint(line) for line in self._pages[number - 1])

    def draw(self, number: int) -> Image.Image:
        """Page `number` (1-based), an RGB image."""
        return draw_page(self._pages[number - 1], self._print, self._canvas)

    def _one_page(self, cleaned: str) -> tuple[Canvas, Layout] | None:
        """The smallest square and the lines on it; None if the text needs several pages."""
        canvas = _square(SHORTEST_PAGE_EDGE)
        if len(cleaned) <= canvas.most_characters(HELD_PRINT):
            paragraphs = [list(words_of(line, longest=canvas.text_width)) for line in cleaned.split("\n")]
            layout = lay_out_largest(paragraphs, self._typeface, canvas, smallest=HELD_PRINT)
            if layout.is_complete and layout.print.size >= HELD_PRINT:
                return canvas, layout
        if len(cleaned) > _LARGEST.most_characters(HELD_PRINT):
            return None
        held = self._typeface.at(HELD_PRINT)
        paragraphs = [list(words_of(line, longest=_LONGEST_PIECE)) for line in cleaned.split("\n")]
        fitting = _LARGEST, lay_out(paragraphs, held, _LARGEST)
        if not fitting[1].is_complete:
            return None
        too_small, large_enough = 0, len(_EDGES) - 1  # places in _EDGES
        while large_enough - too_small > 1:
            place = (too_small + large_enough) // 2
            canvas = _square(_EDGES[place])
            layout = lay_out(paragraphs, held, canvas)
            if layout.is_complete:
                large_enough, fitting = place, (canvas, layout)
            else:
                too_small = place
        return fitting

    def _shrunk_page(self, cleaned: str) -> Layout:
        """A short text on one page: a font with letters of unusual size must not cost a part of it."""
        paragraphs = [list(words_of(line, longest=_LONGEST_PIECE)) for line in cleaned.split("\n")]
        for size in range(HELD_PRINT - 1, 0, -1):
            layout = lay_out(paragraphs, self._typeface.at(size), _LARGEST)
            if layout.is_complete:
                break
        return layout

    def _several_pages(self, cleaned: str, most_pages: int) -> Iterator[list[str]]:
        """The lines of each page. Raises: TooManyTextPagesError."""
        lines = (
            line
            for paragraph in _split_lines(cleaned)
            for line, _ in self._print.wrap(words_of(paragraph, longest=_LONGEST_PIECE), width=_LARGEST.text_width)
        )
        length = most_lines(self._print, _LARGEST)
        pages = 0
        while page := list(islice(lines, length)):
            pages += 1
            if pages > most_pages:
                raise TooManyTextPagesError
            yield page


def is_short(text: str) -> bool:
    """Whether the text has one page in any usual font, so that nobody need lay it out to know.

    `HELD_PRINT` gives a page of 1,024 px at least 36 lines in a font as high as twice its size. Letters no wider than high on
    average fill 952 px with 73; two lines in a row together are wider than that, however long the words; each line break
    leaves one line unfilled.
    """
    if len(text) > _MOST_SHORT_CHARACTERS:
        return False
    lines = 2 * len(text) * HELD_PRINT / _LARGEST.text_width + len(_LINE_BREAKS.findall(text)) + 1
    return lines <= _LARGEST.text_height // (2 * HELD_PRINT)


def _square(edge: int) -> Canvas:
    return Canvas(width=edge, height=edge)


def _split_lines(text: str) -> Iterator[str]:
    """As `text.split` at line feeds, one by one."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]
