"""Lays a text of any length out on square pages, as the pages of the model's first training stage are: see `TextPages`."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

from PIL import Image

from model.pages.text_page_format import PUBLISHED_TEXT_PAGE, TextPageFormat
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

_EDGE_STEP = 28
_BLANK_LINES = re.compile(r"\n(?: ?\n)+")
_LONGEST_PIECE = 4096
_MOST_CHARACTERS_A_PAGE = 10_000  # English in the narrowest common font has 8,900
_MOST_SHORT_CHARACTERS = 2_000
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class TooManyTextPagesError(ValueError):
    """The text fills more pages than are allowed."""


class TextPages:
    """The pages of a text, all of which is on them.

    See `TextPageFormat` for the rule. A text of which `is_short` holds has one page. Several blank lines in a row become one;
    other runs of spaces become one space.
    """

    def __init__(self, text: str, *, most_pages: int, format: TextPageFormat = PUBLISHED_TEXT_PAGE) -> None:
        """Takes at most a second or two for a hundred pages, whatever the text.

        Raises: TooManyTextPagesError for more than `most_pages`, or 10,000 characters for each of them.
        """
        if len(text) > most_pages * _MOST_CHARACTERS_A_PAGE:
            raise TooManyTextPagesError
        cleaned = _BLANK_LINES.sub("\n\n", clean(text))
        self._format = format
        self._canvases = _canvases(format)
        self._typeface = Typeface(cleaned)
        one = self._one_page(cleaned)
        if one is None and is_short(text):
            one = self._canvases[-1], self._shrunk_page(cleaned)
        self._pages: Sequence[Sequence[str]]
        if one is not None:
            self._canvas, layout = one
            self._print, self._pages = layout.print, [layout.lines]
        else:
            self._canvas, self._print = self._canvases[-1], self._typeface.at(format.smallest_print)
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
        """The smallest page and the lines on it; None if the text needs several pages."""
        canvas, largest, smallest_print = self._canvases[0], self._canvases[-1], self._format.smallest_print
        if len(cleaned) <= canvas.most_characters(smallest_print):
            paragraphs = [list(words_of(line, longest=canvas.text_width)) for line in cleaned.split("\n")]
            sizes = range(smallest_print, self._format.largest_print + 1)
            if (layout := lay_out_largest(paragraphs, self._typeface, canvas, sizes)) is not None:
                return canvas, layout
        if len(cleaned) > largest.most_characters(smallest_print):
            return None
        held = self._typeface.at(smallest_print)
        paragraphs = [list(words_of(line, longest=_LONGEST_PIECE)) for line in cleaned.split("\n")]
        fitting = largest, lay_out(paragraphs, held, largest)
        if not fitting[1].is_complete:
            return None
        too_small, large_enough = 0, len(self._canvases) - 1  # places in the list
        while large_enough - too_small > 1:
            place = (too_small + large_enough) // 2
            layout = lay_out(paragraphs, held, self._canvases[place])
            if layout.is_complete:
                large_enough, fitting = place, (self._canvases[place], layout)
            else:
                too_small = place
        return fitting

    def _shrunk_page(self, cleaned: str) -> Layout:
        """A short text on one page: a font with letters of unusual size must not cost a part of it."""
        paragraphs = [list(words_of(line, longest=_LONGEST_PIECE)) for line in cleaned.split("\n")]
        for size in range(self._format.smallest_print - 1, 0, -1):
            layout = lay_out(paragraphs, self._typeface.at(size), self._canvases[-1])
            if layout.is_complete:
                break
        return layout

    def _several_pages(self, cleaned: str, most_pages: int) -> Iterator[list[str]]:
        """The lines of each page. Raises: TooManyTextPagesError."""
        lines = (
            line
            for paragraph in _split_lines(cleaned)
            for line, _ in self._print.wrap(words_of(paragraph, longest=_LONGEST_PIECE), width=self._canvas.text_width)
        )
        length = most_lines(self._print, self._canvas)
        pages = 0
        while page := list(islice(lines, length)):
            pages += 1
            if pages > most_pages:
                raise TooManyTextPagesError
            yield page


def is_short(text: str) -> bool:
    """Whether the text has one page in any usual font, so that nobody need lay it out to know.

    The smallest print of the default format, which a page of another format is given too where that needs it, gives a page of
    1,024 px at least 36 lines in a font as high as twice its size. Letters no wider than high on
    average fill 952 px with 73; two lines in a row together are wider than that, however long the words; each line break
    leaves one line unfilled.
    """
    if len(text) > _MOST_SHORT_CHARACTERS:
        return False
    smallest_print, largest = PUBLISHED_TEXT_PAGE.smallest_print, _canvases(PUBLISHED_TEXT_PAGE)[-1]
    lines = 2 * len(text) * smallest_print / largest.text_width + len(_LINE_BREAKS.findall(text)) + 1
    return lines <= largest.text_height // (2 * smallest_print)


@lru_cache(maxsize=8)
def _canvases(format: TextPageFormat) -> tuple[Canvas, ...]:
    """The pages from the smallest to the largest."""
    longest, width, height = max(format.width, format.height), format.width, format.height
    edges = (*range(longest, format.longest_edge, _EDGE_STEP), max(longest, format.longest_edge))
    return tuple(Canvas(width=width * edge // longest, height=height * edge // longest) for edge in edges)


def _split_lines(text: str) -> Iterator[str]:
    """As `text.split` at line feeds, one by one."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]
