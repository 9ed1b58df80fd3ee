"""Breaks text into lines and draws them in black on white: the steps that a page of given size and a text of any length share.

A text is drawn in one font that covers it, or in several where none covers all of it, so two machines may draw the same text
differently; `fonts.installed_fonts` lists the fonts of this machine.
"""

import re
import threading
import unicodedata
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from model.pages.fonts import FontChoice, choose_fonts, load_font

SMALLEST_FONT = 6
"""In pixels. Smaller letters would be illegible."""

_LARGEST_FONT_SHARE = 6
"""The largest font size is a sixth of the shorter edge: a single word looks like a title page, not like a poster."""

_MARGIN_SHARE = 28
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_BLANK = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2800]")
_UNENCODABLE = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(r"[^\S\n]+")
_WORD = re.compile(r"\S+")
_UNSPACED_SCRIPT = re.compile("([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff])")
_SHAPED_SCRIPT = re.compile(
    "[\u0590-\u109f\u1700-\u1cff\ua800-\uabff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00011fff\U0001e800-\U0001efff]"
)
_JOINERS = re.compile("[\u200c\u200d\u180b-\u180f\u17b4\u17b5]")
"""Invisible characters that change the letters beside them, where those are shaped."""

_NOT_ASCII = re.compile("[ -~]?[^\x00-\x7f]{1,128}")
_WHITESPACE = frozenset(" \n")

_SAMPLE_CHARACTERS = 300
_SPARE_WIDTH = 1.02
"""Joined letters are measured in a sample of the text. Few lines are wider than the sample says, by more than a fiftieth."""

_MOST_FACES = 96
_MOST_MAPPED_BYTES = 256 << 20
_MOST_PICTURES = 1024
_INK_SIZE = 13

Word = tuple[str, bool]
"""The letters of a word, and whether a space precedes it."""

Line = tuple[str, float]
"""The text of a line, and its width in pixels."""

_Measure = Callable[[str], float]
"""A function from a text to its width in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
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

    def most_characters(self, font_size: int) -> int:
        """An upper bound on the characters that fit: letters are at least 1 pixel wide, lines half the font size high."""
        return self.text_width * (1 + 2 * self.text_height // font_size)


class _Advances(dict[str, float]):
    """Widths of single characters, cached because FreeType would fit the letter to the pixel grid again at every call."""

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self._font = font

    def __missing__(self, character: str) -> float:
        self[character] = length = self._font.getlength(character)
        return length


class _Pictures(dict[str, tuple[Image.Image, int, int]]):
    """Cached images of single characters, with their offsets right of the pen and below the top of the line.

    A page of 200 words takes 4 ms with this cache and 44 ms without it, when Pillow draws line by line.
    """

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self._font = font

    def __missing__(self, character: str) -> tuple[Image.Image, int, int]:
        if len(self) >= _MOST_PICTURES:
            self.clear()
        left, top, right, bottom = map(int, self._font.getbbox(character))
        picture = Image.new("L", (max(1, right - left), max(1, bottom - top)))
        ImageDraw.Draw(picture).text((-left, -top), character, fill="white", font=self._font)
        self[character] = entry = picture, left, top
        return entry


class Face:
    """A font in one size, and what was measured and drawn with it."""

    def __init__(self, path: Path | None, size: int) -> None:
        self._path = path
        self._size = size
        self.font = load_font(path, size, ImageFont.Layout.BASIC)
        self.ascent, self.descent = self.font.getmetrics()
        self.advances = _Advances(self.font)
        self.pictures = _Pictures(self.font)

    @cached_property
    def shaped_font(self) -> ImageFont.FreeTypeFont:
        """The font with the engine that joins letters and orders those from right to left."""
        return load_font(self._path, self._size, ImageFont.Layout.RAQM)


class _FaceCache:
    """The faces in use, the least recently used leaving first. Thread-safe.

    Each maps its font file into the address space, which is limited in a raster worker: a Chinese font has 20 MB.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faces: OrderedDict[tuple[Path | None, int], tuple[Face, int]] = OrderedDict()  # with mapped bytes
        self._mapped_bytes = 0

    def face(self, path: Path | None, size: int) -> Face:
        """Pillow's built-in font in place of one that was removed since it was listed."""
        with self._lock:
            if entry := self._faces.get((path, size)):
                self._faces.move_to_end((path, size))
                return entry[0]
            try:
                mapped = 0 if path is None else 2 * path.stat().st_size  # once for each engine
                face = Face(path, size)
            except OSError:
                mapped, face = 0, Face(None, size)
            while self._faces and (len(self._faces) >= _MOST_FACES or self._mapped_bytes + mapped > _MOST_MAPPED_BYTES):
                self._mapped_bytes -= self._faces.popitem(last=False)[1][1]
            self._faces[path, size] = face, mapped
            self._mapped_bytes += mapped
            return face

    def clear(self) -> None:
        with self._lock:
            self._faces.clear()
            self._mapped_bytes = 0


faces = _FaceCache()


class _PathBy(dict[str, Path | None]):
    """The font of each character: the first of the text's fonts, but for the characters that it lacks."""

    def __init__(self, choice: FontChoice) -> None:
        super().__init__(choice.others)
        self.update(dict.fromkeys(choice.missing))
        self._first = choice.first

    def __missing__(self, character: str) -> Path | None:
        return self._first


class Typeface:
    """The fonts of a text, in any size."""

    def __init__(self, text: str) -> None:
        """text: clean. Only scripts with joined letters or from right to left need the slower engine."""
        self.is_shaped = _SHAPED_SCRIPT.search(text) is not None and features.check("raqm")
        self._characters = _visible(text)
        choice = choose_fonts(self._characters)
        self.first = choice.first
        self.missing = choice.missing
        self.is_single = not choice.others and not choice.missing
        self.path_of = _PathBy(choice)
        end = text.find("\n", _SAMPLE_CHARACTERS)
        self._sample = " ".join(text[: end if 0 <= end < 2 * _SAMPLE_CHARACTERS else _SAMPLE_CHARACTERS].split())

    def at(self, size: int) -> "Print":
        return Print(self, size, sample=self._sample)

    def has_ink(self) -> bool:
        """Whether a character of the text leaves ink on paper."""
        return any(
            faces.face(self.path_of[character], _INK_SIZE).pictures[character][0].getbbox() is not None
            for character in self._characters
        )


def _visible(text: str) -> frozenset[str]:
    """The different characters of the text, without spaces and joiners."""
    return frozenset(_JOINERS.sub("", "".join(frozenset(text) - _WHITESPACE)))


class Print:
    """A typeface in one size: measures, breaks and draws lines."""

    def __init__(self, typeface: Typeface, size: int, *, sample: str) -> None:
        self.typeface = typeface
        self.size = size
        self._faces = {path: faces.face(path, size) for path in (typeface.first, *typeface.path_of.values())}
        self._face = self._faces[typeface.first]
        # Boxes for missing characters are in Pillow's own font and as high as its letters.
        heights = [face for path, face in self._faces.items() if path is not None] or [self._face]
        self._ascent = max(face.ascent for face in heights)
        self.line_height = max(1, self._ascent + max(face.descent for face in heights))
        self._advance_of = self._face.advances.__getitem__
        if not typeface.is_single:
            self._advance_of = _MixedAdvances(self._face_of).__getitem__
        # The exact width of joined letters takes 20 microseconds a word; the sum over letters, scaled, a hundredth of that.
        self._scale = 1.0
        if typeface.is_shaped and (apart := sum(map(self._advance_of, sample))):
            self._scale = _SPARE_WIDTH * self.shaped_width(sample) / apart

    def _face_of(self, character: str) -> Face:
        return self._faces[self.typeface.path_of[character]]

    def measure(self, text: str) -> float:
        """The width in pixels: the sum over letters without kerning; of joined letters an estimate."""
        width = sum(map(self._advance_of, text))
        return width * self._scale if self._scale != 1.0 else width

    def shaped_width(self, line: str) -> float:
        """The drawn width in pixels of a line with joined letters."""
        return sum(self._run_width(path, run) for path, run in self._runs(line))

    def _run_width(self, path: Path | None, run: str) -> float:
        """Spaces at the end are added by themselves: the engine would put them at the wrong end of letters from the right."""
        letters = run.rstrip(" ")
        spaces = len(run) - len(letters)
        return self._shaped_font(path).getlength(letters) + (spaces * self._advance_of(" ") if spaces else 0.0)

    def _shaped_font(self, path: Path | None) -> ImageFont.FreeTypeFont:
        return self._faces[path].shaped_font

    def _runs(self, line: str) -> list[tuple[Path | None, str]]:
        """The stretches of the line that are in one font. Spaces and marks go with the letters before them."""
        if self.typeface.is_single:
            return [(self.typeface.first, line)]
        paths: list[Path | None] = []
        for character in line:
            goes_along = paths and (character == " " or unicodedata.category(character) in ("Mn", "Me", "Cf"))
            paths.append(paths[-1] if goes_along else self.typeface.path_of[character])
        grouped = groupby(zip(paths, line, strict=True), key=lambda pair: pair[0])
        return [(path, "".join(character for _, character in pairs)) for path, pairs in grouped]

    def wrap(self, words: Iterable[Word], *, width: int) -> Iterator[Line]:
        """The lines of a paragraph, at least one. A line has at most `width` characters, some of which have no width."""
        lines = self._wrap(words, width=width)
        return self._narrowed(lines, width=width) if self.typeface.is_shaped else lines

    def _wrap(self, words: Iterable[Word], *, width: int) -> Iterator[Line]:
        measure = self.measure
        line, used, space = "", 0.0, measure(" ")
        for word, has_space in words:
            length = measure(word)
            parts = [(word, length)] if length <= width else self._pieces(word, width=width)
            for piece, length in parts:
                gap = space if has_space and line else 0.0
                if line and (used + gap + length > width or len(line) + len(piece) >= width):
                    yield line, used
                    line, used = piece, length
                else:
                    line += (" " if gap else "") + piece
                    used += gap + length
                has_space = False  # no space between the pieces of a word
        yield line, used

    def _pieces(self, word: str, *, width: int) -> Iterator[Line]:
        """The word, cut into pieces as wide as a line; a piece has at least one letter, with its marks."""
        start = 0
        widths = list(accumulate((self._advance_of(letter) * self._scale for letter in word), initial=0.0))
        while start < len(word):
            end = max(start + 1, bisect_right(widths, widths[start] + width) - 1)
            if end < len(word):
                end = _before_marks(word, start=start, end=end)
            yield word[start:end], widths[end] - widths[start]
            start = end

    def _narrowed(self, lines: Iterator[Line], *, width: int) -> Iterator[Line]:
        """Lines of joined letters with their exact widths; those that are wider than estimated are cut in two."""
        for line, _ in lines:
            rest = line
            while (used := self.shaped_width(rest)) > width and len(rest) > 1:
                end = max(1, int(len(rest) * width / used))
                space = rest.rfind(" ", 1, end + 1)
                end = space if space > 0 else _before_marks(rest, start=0, end=end)
                if self.shaped_width(rest[:end]) > width:
                    end = max(1, end * 3 // 4)
                yield rest[:end], self.shaped_width(rest[:end])
                rest = rest[end:].lstrip(" ")
            yield rest, used

    def draw_line(self, page: Image.Image, line: str, left: int, top: int) -> None:
        """Draw the line on a page of mode L, from `left`, or from as far from the right edge if it runs to the left."""
        if self.typeface.is_shaped:
            self._draw_shaped(page, line, left, top)
        else:
            self._draw_letters(page, line, left, top)

    def _draw_letters(self, page: Image.Image, line: str, left: int, top: int) -> None:
        pen, advance_of = float(left), self._advance_of
        face, is_single = self._face, self.typeface.is_single
        down = top + self._ascent - face.ascent
        for character in line:
            if character != " ":
                if not is_single:
                    face = self._face_of(character)
                    down = top + self._ascent - face.ascent
                picture, right, below = face.pictures[character]
                page.paste(0, (round(pen) + right, down + below), picture)
            pen += advance_of(character)

    def _draw_shaped(self, page: Image.Image, line: str, left: int, top: int) -> None:
        """Draw a line with joined letters or from right to left."""
        draw, runs = ImageDraw.Draw(page), self._runs(line)
        runs_to_the_left = _runs_to_the_left(line)
        pen = float(page.width - left if runs_to_the_left else left)
        for path, run in runs:
            font, letters = self._shaped_font(path), run.rstrip(" ")
            place = pen, top + self._ascent - font.getmetrics()[0]
            draw.text(place, letters, fill=0, font=font, anchor="ra" if runs_to_the_left else "la")
            width = self._run_width(path, run)
            pen += -width if runs_to_the_left else width


class _MixedAdvances(dict[str, float]):
    """Widths of single characters of a text in several fonts."""

    def __init__(self, face_of: Callable[[str], Face]) -> None:
        self._face_of = face_of

    def __missing__(self, character: str) -> float:
        self[character] = length = self._face_of(character).advances[character]
        return length


def _before_marks(word: str, *, start: int, end: int) -> int:
    """A place for a cut at `end` or shortly before it, so that no mark is parted from its letter."""
    for place in range(end, max(start, end - 4), -1):
        if unicodedata.category(word[place]) not in ("Mn", "Mc", "Me"):
            return place
    return end


def clean(text: str, *, most_characters: int | None = None) -> str:
    """The text without undrawable characters, in NFC, cut to the length that can be visible; lines end in a line feed."""
    text = _LINE_ENDS.sub("\n", text)
    text = _INVISIBLE.sub("", _BLANK.sub(" ", text))
    text = _SPACES.sub(" ", _UNENCODABLE.sub("\ufffd", text)).strip()
    text = text[:most_characters]
    if not _SHAPED_SCRIPT.search(text):
        text = _JOINERS.sub("", text)
    # Short stretches, because a long one of marks would take a time that grows with the square of its length.
    return _NOT_ASCII.sub(lambda stretch: unicodedata.normalize("NFC", stretch[0]), text)


def words_of(paragraph: str, *, longest: int) -> Iterator[Word]:
    """The words, in pieces of at most `longest` characters. In scripts without spaces each character is a word."""
    has_unspaced = _UNSPACED_SCRIPT.search(paragraph) is not None
    for match in _WORD.finditer(paragraph):
        word = match[0]
        if has_unspaced or len(word) > longest:
            parts = _UNSPACED_SCRIPT.split(word) if has_unspaced else [word]
            pieces = [part[start : start + longest] for part in parts for start in range(0, len(part), longest)]
            yield from ((piece, index == 0) for index, piece in enumerate(pieces))
        else:
            yield word, True


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The lines that fit a page."""

    print: Print
    lines: Sequence[str]
    is_complete: bool  # whether all of the text is on the page


def lay_out(paragraphs: Iterable[Iterable[Word]], print: Print, canvas: Canvas) -> Layout:
    """The lines that fit the canvas. Wrapping stops at the bottom, so a megabyte of text costs no more than a page."""
    wrapped = (line for paragraph in paragraphs for line in print.wrap(paragraph, width=canvas.text_width))
    most = most_lines(print, canvas)
    lines = list(islice(wrapped, most + 1))
    is_complete = len(lines) <= most and all(width <= canvas.text_width for _, width in lines)
    return Layout(print=print, lines=[line for line, _ in lines[:most]], is_complete=is_complete)


def most_lines(print: Print, canvas: Canvas) -> int:
    """The number of lines on a page."""
    return max(1, canvas.text_height // print.line_height)


def lay_out_largest(
    paragraphs: Sequence[Sequence[Word]], typeface: Typeface, canvas: Canvas, sizes: range
) -> Layout | None:
    """The layout in the largest of the sizes at which all of the text fits; None where it fits in none."""
    found = None
    smallest, largest = sizes[0], sizes[-1]
    while smallest <= largest:
        size = (smallest + largest + 1) // 2
        layout = lay_out(paragraphs, typeface.at(size), canvas)
        if layout.is_complete:
            smallest, found = size + 1, layout
        else:
            largest = size - 1
    return found


def draw_page(lines: Sequence[str], print: Print, canvas: Canvas) -> Image.Image:
    """The lines on a page, as an RGB image."""
    page = Image.new("L", (canvas.width, canvas.height), "white")
    for index, line in enumerate(lines):
        print.draw_line(page, line, canvas.margin, canvas.margin + index * print.line_height)
    return page.convert("RGB")


def _runs_to_the_left(line: str) -> bool:
    """Whether the first letter with a direction belongs to a right-to-left script, such as Hebrew or Arabic."""
    directions = (unicodedata.bidirectional(character) for character in line)
    return next((direction for direction in directions if direction in ("L", "R", "AL")), "L") != "L"
