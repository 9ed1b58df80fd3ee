"""Renders text as a page image: black on white, wrapped at words, in the largest font size at which all of it fits.

Any string can be drawn. The font is an installed one that covers the characters of the text, so two machines may draw the
same text differently; `fonts.installed_fonts` lists the fonts of this machine.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from model.pages.fonts import choose_font, load_font

SMALLEST_FONT = 6
"""In pixels. Smaller letters would be illegible; text that does not fit at this size is cut off at the bottom."""

_LARGEST_FONT_SHARE = 6
"""The largest font size is a sixth of the shorter edge: a single word looks like a title page, not like a poster."""

_MARGIN_SHARE = 28
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]")
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_UNENCODABLE = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(r"[^\S\n]+")
_UNSPACED_SCRIPT = re.compile("([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff])")
_SHAPED_SCRIPT = re.compile(
    "[\u0590-\u109f\u1700-\u1cff\ua800-\uabff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00011fff\U0001e800-\U0001efff]"
)
_JOINERS = re.compile("[\u200c\u200d]")

_Word = tuple[str, bool]
"""The letters of a word, and whether a space precedes it."""

_Measure = Callable[[str], float]
"""A function from a text to its width in pixels."""


def render_text(text: str, *, width: int, height: int, font_size: int | None = None) -> Image.Image:
    """The text as an RGB image of `width` x `height` pixels. Line breaks are kept; other runs of spaces become one space.

    font_size: in pixels; None for the largest whole size at which all of the text fits. The rest is cut off at the bottom.
    Raises: ValueError for a width, height or font size below 1.
    """
    for name, value in (("width", width), ("height", height), ("font_size", font_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1 pixel.")
    canvas = _Canvas(width=width, height=height)
    text = _clean(text, most_characters=canvas.most_characters(font_size or SMALLEST_FONT))
    typeface = _typeface(text)
    paragraphs = [_words(paragraph, longest=canvas.text_width) for paragraph in text.split("\n")]
    size = font_size or _largest_fitting_size(paragraphs, typeface, canvas)
    return _draw(_lay_out(paragraphs, typeface, canvas, size=size), canvas)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canvas:
    """The size of a page and the margin around its text, in pixels."""

    width: int
    height: int

    @property
    def margin(self) -> int:
        return min(self.width, self.height) // _MARGIN_SHARE

    @property
    def text_width(self) -> int:
        return self.width - 2 * self.margin

    @property
    def text_height(self) -> int:
        return self.height - 2 * self.margin

    @property
    def largest_font(self) -> int:
        return max(SMALLEST_FONT, min(self.width, self.height) // _LARGEST_FONT_SHARE)

    def most_lines(self, font: ImageFont.FreeTypeFont) -> int:
        return max(1, self.text_height // _line_height(font))

    def most_characters(self, font_size: int) -> int:
        """An upper bound on the characters that fit: letters are at least 1 pixel wide, lines half the font size high."""
        return self.text_width * (1 + 2 * self.text_height // font_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Typeface:
    """A font in any size, and the layout engine that places its letters."""

    path: Path | None  # None: Pillow's built-in font
    layout: ImageFont.Layout

    def font(self, size: int) -> ImageFont.FreeTypeFont:
        return load_font(self.path, size, self.layout)

    def measure(self, size: int) -> _Measure:
        """A function for widths in pixels: the sum over letters without kerning, or the drawn width where letters join."""
        if self.layout == ImageFont.Layout.BASIC:
            return _advances(self.path, size).measure
        return self.font(size).getlength


def _clean(text: str, *, most_characters: int) -> str:
    """The text without undrawable characters, in NFC, cut to the length that can be visible on the page."""
    text = _LINE_ENDS.sub("\n", text)
    text = _INVISIBLE.sub("", _CONTROLS.sub(" ", text))
    text = _SPACES.sub(" ", _UNENCODABLE.sub("\ufffd", text)).strip()
    return unicodedata.normalize("NFC", text[:most_characters])


def _words(paragraph: str, *, longest: int) -> list[_Word]:
    """The words, in pieces of at most `longest` characters. In scripts without spaces each character is a word."""
    words: list[_Word] = []
    for word in paragraph.split():
        parts = [
            part[start : start + longest]
            for part in _UNSPACED_SCRIPT.split(word)
            for start in range(0, len(part), longest)
        ]
        words += ((part, index == 0) for index, part in enumerate(parts))
    return words


def _typeface(text: str) -> _Typeface:
    """The font and layout engine. Only scripts with joined letters or from right to left need the slower engine."""
    needs_shaping = _SHAPED_SCRIPT.search(text) is not None and features.check("raqm")
    visible = _JOINERS.sub("", "".join(text.split()))
    return _Typeface(
        path=choose_font(frozenset(visible)),
        layout=ImageFont.Layout.RAQM if needs_shaping else ImageFont.Layout.BASIC,
    )


class _Advances(dict[str, float]):
    """Widths of single characters, cached because FreeType would fit the letter to the pixel grid again at every call."""

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self._font = font

    def __missing__(self, character: str) -> float:
        self[character] = length = self._font.getlength(character)
        return length

    def measure(self, text: str) -> float:
        return sum(map(self.__getitem__, text))


class _Glyphs(dict[str, tuple[Image.Image, int, int]]):
    """Cached images of single characters, with their offsets right of the pen and below the top of the line.

    A page of 200 words takes 4 ms with this cache and 44 ms without it, when Pillow draws line by line.
    """

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self._font = font

    def __missing__(self, character: str) -> tuple[Image.Image, int, int]:
        left, top, right, bottom = map(int, self._font.getbbox(character))
        picture = Image.new("L", (max(1, right - left), max(1, bottom - top)))
        ImageDraw.Draw(picture).text((-left, -top), character, fill="white", font=self._font)
        self[character] = glyph = picture, left, top
        return glyph


@lru_cache(maxsize=128)
def _advances(path: Path | None, size: int) -> _Advances:
    return _Advances(load_font(path, size, ImageFont.Layout.BASIC))


@lru_cache(maxsize=64)
def _glyphs(path: Path | None, size: int) -> _Glyphs:
    return _Glyphs(load_font(path, size, ImageFont.Layout.BASIC))


def _largest_fitting_size(paragraphs: Sequence[Sequence[_Word]], typeface: _Typeface, canvas: _Canvas) -> int:
    fitting, largest = SMALLEST_FONT, canvas.largest_font
    while fitting < largest:
        size = (fitting + largest + 1) // 2
        if _lay_out(paragraphs, typeface, canvas, size=size).is_complete:
            fitting = size
        else:
            largest = size - 1
    return fitting


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    typeface: _Typeface
    size: int
    lines: Sequence[str]
    is_complete: bool  # whether all of the text is on the page


def _lay_out(paragraphs: Sequence[Sequence[_Word]], typeface: _Typeface, canvas: _Canvas, *, size: int) -> _Layout:
    """The lines that fit the canvas. Wrapping stops at the bottom, so a megabyte of text costs no more than a page."""
    measure = typeface.measure(size)
    wrapped = (line for paragraph in paragraphs for line in _wrap(paragraph, measure, width=canvas.text_width))
    most = canvas.most_lines(typeface.font(size))
    lines = list(islice(wrapped, most + 1))
    return _Layout(typeface=typeface, size=size, lines=lines[:most], is_complete=len(lines) <= most)


def _wrap(words: Sequence[_Word], measure: _Measure, *, width: int) -> Iterator[str]:
    """The lines of a paragraph, at least one."""
    line, used, space = "", 0.0, measure(" ")
    for word, has_space in words:
        for piece, length in _pieces(word, measure, width=width):
            gap = space if has_space and line else 0.0
            if line and used + gap + length > width:
                yield line
                line, used = piece, length
            else:
                line += (" " if gap else "") + piece
                used += gap + length
            has_space = False  # no space between the pieces of a word
    yield line


def _pieces(word: str, measure: _Measure, *, width: int) -> Iterator[tuple[str, float]]:
    """The word with its width, cut into pieces if it is wider than a line."""
    length = measure(word)
    while length > width and len(word) > 1:
        # The longest prefix that fits the line, but at least one character.
        end = max(1, bisect_right(range(1, len(word)), float(width), key=lambda count: measure(word[:count])))
        yield word[:end], measure(word[:end])
        word = word[end:]
        length = measure(word)
    yield word, length


def _draw(layout: _Layout, canvas: _Canvas) -> Image.Image:
    page = Image.new("L", (canvas.width, canvas.height), "white")
    font = layout.typeface.font(layout.size)
    draw_line = _draw_letters if layout.typeface.layout == ImageFont.Layout.BASIC else _draw_shaped
    for index, line in enumerate(layout.lines):
        draw_line(page, line, layout, canvas.margin, canvas.margin + index * _line_height(font))
    return page.convert("RGB")


def _draw_letters(page: Image.Image, line: str, layout: _Layout, left: int, top: int) -> None:
    path, size = layout.typeface.path, layout.size
    glyphs, advances = _glyphs(path, size), _advances(path, size)
    pen = float(left)
    for character in line:
        picture, right, down = glyphs[character]
        page.paste("black", (round(pen) + right, top + down), picture)
        pen += advances[character]


def _draw_shaped(page: Image.Image, line: str, layout: _Layout, left: int, top: int) -> None:
    """Draw a line with joined letters or from right to left."""
    draw, font = ImageDraw.Draw(page), layout.typeface.font(layout.size)
    if _runs_to_the_left(line):
        draw.text((page.width - left, top), line, fill="black", font=font, anchor="ra")
    else:
        draw.text((left, top), line, fill="black", font=font)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return max(1, sum(font.getmetrics()))


def _runs_to_the_left(line: str) -> bool:
    """Whether the first letter with a direction belongs to a right-to-left script, such as Hebrew or Arabic."""
    directions = (unicodedata.bidirectional(character) for character in line)
    return next((direction for direction in directions if direction in ("L", "R", "AL")), "L") != "L"
