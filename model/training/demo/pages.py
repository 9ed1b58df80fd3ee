"""Draws synthetic pages for the demo training: random words in various fonts and layouts, with the box of each word.

A page has the size that the service renders (A4, longest edge 1024 px). Equal seeds give equal pages on machines with the
same fonts.
"""

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from model.training.demo.vocabulary import words

WIDTH, HEIGHT = 724, 1024
POINTS = 842
"""Height of A4 in points: one point is HEIGHT / POINTS pixels."""

SEEN_LAYOUTS = ("paragraphs", "list", "table")
HELD_OUT_LAYOUT = "columns"

_STRANGE_WORD_SHARE = 0.05
_CAPITALISED_SHARE = 0.12
_SHOUTED_SHARE = 0.02
_PUNCTUATED_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The fonts, font sizes and layouts that pages are drawn from."""

    fonts: tuple[Path, ...]
    smallest_print: float = 26.0  # points on A4
    largest_print: float = 40.0
    layouts: tuple[str, ...] = SEEN_LAYOUTS


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedWord:
    """A word on a page. The box, in pixels, includes ascenders and descenders."""

    text: str  # in lower case, without punctuation
    place: int | None  # in `vocabulary.words()`; None for an unknown word
    box: tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPage:
    """A page image with the words on it."""

    image: Image.Image  # grey, WIDTH x HEIGHT
    words: tuple[PlacedWord, ...]

    @property
    def known_words(self) -> frozenset[int]:
        """The places in `vocabulary.words()` of the words on the page."""
        return frozenset(word.place for word in self.words if word.place is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Print:
    """A font in one size."""

    path: Path
    size: int  # pixels

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        return _font(self.path, self.size)

    def length(self, text: str) -> float:
        return _length(self.path, self.size, text)

    def box(self, text: str, x: float, y: float) -> tuple[float, float, float, float]:
        """The box of `text` that is drawn with the top left corner of its line at (x, y)."""
        baseline = y + self.font.getmetrics()[0]
        return x, baseline - 0.75 * self.size, x + self.length(text), baseline + 0.2 * self.size


@lru_cache(maxsize=1024)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=200_000)
def _length(path: Path, size: int, text: str) -> float:
    return _font(path, size).getlength(text)


def draw_page(seed: int, style: Style) -> DrawnPage:
    """A page of random words, determined by the seed and the style."""
    chance = random.Random(seed)
    letters = _Print(
        path=chance.choice(style.fonts),
        size=round(chance.uniform(style.smallest_print, style.largest_print) * HEIGHT / POINTS),
    )
    paper = 255 if chance.random() < 0.7 else chance.randint(225, 255)
    image = Image.new("L", (WIDTH, HEIGHT), paper)
    pen = _Pen(chance=chance, letters=letters, draw=ImageDraw.Draw(image), ink=chance.randint(0, 70))
    for area in _areas(chance, chance.choice(style.layouts), pen):
        pen.fill(area)
    return DrawnPage(image=image, words=tuple(pen.placed))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Area:
    """A rectangle to fill with words, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def _areas(chance: random.Random, layout: str, pen: "_Pen") -> Iterator[_Area]:
    left, right = chance.randint(20, 90), WIDTH - chance.randint(20, 90)
    top, bottom = chance.randint(20, 90), HEIGHT - 20
    page = _Area(left=left, top=top, right=right, bottom=bottom)
    yield from {"paragraphs": _paragraphs, "list": _list, "table": _table, "columns": _columns}[layout](
        chance, page, pen
    )


def _paragraphs(chance: random.Random, page: _Area, pen: "_Pen") -> Iterator[_Area]:
    """Paragraphs of two to six lines. Some are indented, some are replaced by a figure (a grey box)."""
    top = page.top
    while top < page.bottom:
        height = pen.pitch * chance.randint(2, 6)
        if chance.random() < 0.1:
            pen.draw_figure(_Area(left=page.left, top=top, right=page.right, bottom=min(top + height, page.bottom)))
        else:
            indent = chance.choice((0, 0, 0, 30))
            yield _Area(left=page.left + indent, top=top, right=page.right, bottom=min(top + height, page.bottom))
        top += height + pen.pitch * chance.choice((0, 0, 0.5))


def _list(chance: random.Random, page: _Area, pen: "_Pen") -> Iterator[_Area]:
    """List items of one or two lines after a dash."""
    top = page.top
    while top + pen.pitch < page.bottom:
        height = pen.pitch * chance.choice((1, 1, 2))
        pen.write("-", page.left, top)
        yield _Area(left=page.left + pen.letters.size, top=top, right=page.right, bottom=min(top + height, page.bottom))
        top += height + pen.pitch * chance.choice((0, 0.3))


def _table(chance: random.Random, page: _Area, pen: "_Pen") -> Iterator[_Area]:
    """Rows of a table with rules between them and two or three cells of one line each."""
    count = chance.choice((2, 3))
    width = (page.right - page.left) / count
    top = page.top
    while top + pen.pitch < page.bottom:
        pen.rule(page.left, top - 0.1 * pen.pitch, page.right)
        for column in range(count):
            left = page.left + column * width
            yield _Area(left=left + 6, top=top, right=left + width - 6, bottom=top + pen.pitch)
        top += pen.pitch * 1.2


def _columns(chance: random.Random, page: _Area, pen: "_Pen") -> Iterator[_Area]:
    """A heading over two columns of text."""
    yield _Area(left=page.left, top=page.top, right=page.right, bottom=page.top + pen.pitch)
    top, middle = page.top + 2 * pen.pitch, (page.left + page.right) / 2
    for left, right in ((page.left, middle - 12), (middle + 12, page.right)):
        yield _Area(left=left, top=top, right=right, bottom=page.bottom)


class _Pen:
    """Writes words from left to right and records their boxes."""

    def __init__(self, *, chance: random.Random, letters: _Print, draw: ImageDraw.ImageDraw, ink: int) -> None:
        self.letters = letters
        self.pitch = letters.size * chance.uniform(1.1, 1.5)
        self.placed: list[PlacedWord] = []
        self._chance = chance
        self._draw = draw
        self._ink = ink
        self._space = letters.length(" ") * chance.uniform(0.9, 1.3)

    def fill(self, area: _Area) -> None:
        """Write random words until the area is full."""
        x, y = area.left, area.top
        while y + self.pitch <= area.bottom + 1:
            text, place = self._choose_word()
            shown = self._with_case_and_punctuation(text)
            if x + self.letters.length(shown) > area.right:
                if x == area.left:  # wider than the area
                    return
                x, y = area.left, y + self.pitch
                continue
            self.write(shown, x, y)
            self.placed.append(PlacedWord(text=text, place=place, box=self.letters.box(shown.rstrip(".,;:"), x, y)))
            x += self.letters.length(shown) + self._space

    def write(self, text: str, x: float, y: float) -> None:
        self._draw.text((x, y), text, fill=self._ink, font=self.letters.font)

    def rule(self, left: float, y: float, right: float) -> None:
        self._draw.line((left, y, right, y), fill=self._ink, width=1)

    def draw_figure(self, area: _Area) -> None:
        self._draw.rectangle((area.left, area.top, area.right, area.bottom), fill=self._chance.randint(120, 220))

    def _choose_word(self) -> tuple[str, int | None]:
        if self._chance.random() < _STRANGE_WORD_SHARE:
            return self._strange_word(), None
        place = self._chance.randrange(len(words()))
        return words()[place], place

    def _strange_word(self) -> str:
        """Random letters or digits, hardly ever a known word."""
        if self._chance.random() < 0.3:
            return str(self._chance.randrange(10_000))
        return "".join(self._chance.choices(string.ascii_lowercase, k=self._chance.randint(2, 9)))

    def _with_case_and_punctuation(self, text: str) -> str:
        dice = self._chance.random()
        if dice < _CAPITALISED_SHARE:
            text = text.capitalize()
        elif dice < _CAPITALISED_SHARE + _SHOUTED_SHARE:
            text = text.upper()
        return text + (self._chance.choice(",.;:") if self._chance.random() < _PUNCTUATED_SHARE else "")


def draw_pages(seeds: Sequence[int], style: Style) -> list[DrawnPage]:
    """One page for each seed."""
    return [draw_page(seed, style) for seed in seeds]
