"""Finds the fonts of this machine, the characters that each font covers, and the fonts that draw a text.

Searches the font folders of Linux, macOS and Windows. Reads the character maps of font files itself, because Pillow draws
with a font but does not report its missing characters. Some machines have thousands of fonts: a font's map is read when a text
needs it, at most once in a process, and a font is opened by Pillow only when it is chosen.
"""

import io
import os
import re
import struct
import sys
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import ImageFont

_PREFERRED = ("notosans", "dejavusans", "liberationsans", "arial")
_SUFFIXES = frozenset({".ttf", ".otf", ".ttc"})
_UNWANTED_STYLES = re.compile(
    r"bold|italic|oblique|light|thin|black|heavy|medium|condensed|narrow|emoji|lastresort", re.I
)
_PROBE_SIZE = 16
_UNICODE_PLATFORMS = frozenset({(0, 3), (0, 4), (0, 6), (3, 1), (3, 10)})
_MOST_OTHER_FONTS = 8
"""For the characters that the first font of a text lacks: a bound on the files that one hostile text opens."""

_NO_FONT = 0xFFFF


class Coverage:
    """The code points for which a font has a glyph, as ranges: a Chinese font has 65,000 points in some hundred ranges."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """ranges: first and last code point of each, in any order, overlapping or not."""
        self._firsts, self._lasts = array("L"), array("L")
        for first, last in sorted(ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __contains__(self, code: int) -> bool:
        place = bisect_right(self._firsts, code)
        return place > 0 and code <= self._lasts[place - 1]

    def __len__(self) -> int:
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """First and last code point of each range, in ascending order."""
        return zip(self._firsts, self._lasts, strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FontChoice:
    """The fonts that draw a text."""

    first: Path | None  # of most of its characters; None: Pillow's built-in font
    others: Mapping[str, Path | None]  # a font for each character that `first` lacks, where there is one
    missing: frozenset[str]  # the characters without a font: boxes are drawn in their place


@lru_cache(maxsize=1)
def installed_fonts() -> tuple[Path, ...]:
    """The font files of this machine, best first. If empty, only Pillow's built-in font is available.

    The files have not been opened, so some may be damaged: see `is_usable`.
    """
    return tuple(sorted({path for folder in _folders() for path in _font_files(folder)}, key=_preference))


def _folders() -> Iterator[Path]:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts")
        yield Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local"), "Microsoft/Windows/Fonts")
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts")
    else:
        yield from (home / ".fonts", Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"), "fonts"))
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        yield from (Path(folder, "fonts") for folder in shared.split(":") if folder)


def _font_files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if path.suffix.lower() in _SUFFIXES and not _UNWANTED_STYLES.search(path.stem):
                yield path


def _preference(path: Path) -> tuple[int, str, str]:
    """A sort key: the preferred families, then the other Noto Sans fonts (one a script), other sans-serif fonts, the rest."""
    name = re.sub(r"\[.*|[\W_]|regular", "", path.stem.lower())
    if name in _PREFERRED:
        return _PREFERRED.index(name), name, str(path)
    group = 0 if name.startswith("notosans") else 1 if "sans" in name and "mono" not in name else 2
    return len(_PREFERRED) + group, name, str(path)


@lru_cache(maxsize=4096)
def is_usable(path: Path | None) -> bool:
    """Whether Pillow opens the font: not a damaged file, nor colour bitmaps of a fixed size."""
    try:
        load_font(path, _PROBE_SIZE, ImageFont.Layout.BASIC)
    except OSError:
        return False
    return True


def load_font(path: Path | None, size: int, layout: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    """The font at `size` pixels. A `path` of None is Pillow's built-in font. Raises: OSError."""
    if path is not None:
        return ImageFont.truetype(path, size, layout_engine=layout)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "with a size given, Pillow's own font is a scalable one"
    return font


def choose_fonts(characters: frozenset[str]) -> FontChoice:
    """The fonts for a text of these characters: the first installed font that has all of them, alone, where there is one.

    Otherwise the first font is the one with most of them, among the fonts that are the first to have one of them; the
    characters that it lacks come from such fonts, at most eight.
    """
    codes = sorted(map(ord, characters), reverse=True)  # rare ones first, which most fonts lack
    place = _first_with_all(codes)
    if place is not None:
        return FontChoice(first=_fonts()[place], others={}, missing=frozenset())
    table = _first_owners()
    owners = {code: table[code] for code in codes if table[code] != _NO_FONT}
    missing = _letters(code for code in codes if code not in owners)
    place = _first_with_all(sorted(owners, key=owners.__getitem__, reverse=True))
    if place is not None:
        return FontChoice(first=_fonts()[place], others={}, missing=missing)
    return _several_fonts(owners, missing=missing)


def _several_fonts(owners: Mapping[int, int], *, missing: frozenset[str]) -> FontChoice:
    """owners: the place in `_fonts` of the first font with each code point; no font has all of them."""
    candidates = [place for place, _ in Counter(owners.values()).most_common(1 + _MOST_OTHER_FONTS)]
    coverages = {place: coverage_of(_fonts()[place]) for place in candidates}
    first = max(candidates, key=lambda place: (sum(code in coverages[place] for code in owners), -place))
    lacking = {code: place for code, place in owners.items() if code not in coverages[first]}
    counts = Counter(lacking.values())
    used = set(sorted(counts, key=lambda place: (-counts[place], place))[:_MOST_OTHER_FONTS])
    return FontChoice(
        first=_fonts()[first],
        others={chr(code): _fonts()[place] for code, place in lacking.items() if place in used},
        missing=missing | _letters(code for code, place in lacking.items() if place not in used),
    )


def _letters(codes: Iterable[int]) -> frozenset[str]:
    return frozenset(map(chr, codes))


def has_font(character: str) -> bool:
    """Whether a font of this machine, or Pillow's built-in one, has the character."""
    return _first_owners()[ord(character)] != _NO_FONT


def _fonts() -> tuple[Path | None, ...]:
    return (*installed_fonts(), None)


def _first_with_all(codes: Iterable[int]) -> int | None:
    """The place in `_fonts` of the first usable font with all code points; None if no font has them all."""
    wanted = tuple(codes)
    for place, font in enumerate(_fonts()):
        coverage = coverage_of(font)
        if all(code in coverage for code in wanted) and is_usable(font):
            return place
    return None


@lru_cache(maxsize=1)
def _first_owners() -> "array[int]":
    """For each code point the place in `_fonts` of the first usable font that has it, or `_NO_FONT`. Reads all maps."""
    fonts = _fonts()
    unusable: set[int] = set()
    while True:
        table = array("H", [_NO_FONT]) * (sys.maxunicode + 1)
        for place in reversed(range(len(fonts))):  # so that the best fonts come last, over the others
            if place not in unusable:
                for first, last in coverage_of(fonts[place]).ranges():
                    table[first : last + 1] = array("H", [place]) * (last + 1 - first)
        found = {place for place in set(table) - {_NO_FONT} if not is_usable(fonts[place])}
        if not found:
            return table
        unusable |= found


@cache  # a few kilobytes a font
def coverage_of(path: Path | None) -> Coverage:
    """The code points for which the font has a glyph; none if the character map is unreadable.

    Source: the OpenType specification, tables `ttcf` and `cmap`.
    """
    try:
        with _open_font(path) as file:
            table = _character_map_table(file)
        return Coverage(part for subtable in _unicode_subtables(table) for part in _ranges(subtable))
    except (OSError, struct.error, IndexError):
        return Coverage()


def _open_font(path: Path | None) -> BinaryIO:
    if path is not None:
        return path.open("rb")
    built_in = load_font(None, _PROBE_SIZE, ImageFont.Layout.BASIC)
    return io.BytesIO(built_in.font_bytes)


def _character_map_table(file: BinaryIO) -> bytes:
    """The table `cmap` of the first font in the file; empty if it has none."""
    start = 0
    if file.read(4) == b"ttcf":
        file.seek(12)
        (start,) = struct.unpack(">L", file.read(4))
    file.seek(start + 4)
    (count,) = struct.unpack(">H", file.read(2))
    file.seek(start + 12)
    for name, _, offset, length in struct.iter_unpack(">4sLLL", file.read(16 * count)):
        if name == b"cmap":
            file.seek(offset)
            return file.read(length)
    return b""


def _unicode_subtables(table: bytes) -> Iterator[bytes]:
    if not table:
        return
    (count,) = struct.unpack_from(">H", table, 2)
    for index in range(count):
        platform, encoding, offset = struct.unpack_from(">HHL", table, 4 + 8 * index)
        if (platform, encoding) in _UNICODE_PLATFORMS:
            yield table[offset:]


def _ranges(subtable: bytes) -> Iterator[tuple[int, int]]:
    """The code points that the subtable maps. Only formats 4 and 12 are read: today's Unicode fonts use no others."""
    (form,) = struct.unpack_from(">H", subtable)
    if form == 4:
        yield from _ranges_of_segments(subtable)
    elif form == 12:
        (count,) = struct.unpack_from(">L", subtable, 12)
        for first, last, glyph in struct.iter_unpack(">LLL", subtable[16 : 16 + 12 * count]):
            first, last = first + (glyph == 0), min(last, sys.maxunicode)
            if first <= last:
                yield first, last


def _ranges_of_segments(subtable: bytes) -> Iterator[tuple[int, int]]:
    """The code points of format 4. A segment gives glyphs as code plus delta, or in a list; glyph 0 means a missing glyph."""
    (double_count,) = struct.unpack_from(">H", subtable, 6)
    count = double_count // 2
    words = struct.unpack_from(f">{(len(subtable) - 14) // 2}H", subtable, 14)
    lasts, firsts = words[:count], words[count + 1 : 2 * count + 1]
    deltas, offsets = words[2 * count + 1 : 3 * count + 1], words[3 * count + 1 : 4 * count + 1]
    for index, (first, last, delta, offset) in enumerate(zip(firsts, lasts, deltas, offsets, strict=True)):
        last = min(last, 0xFFFE)
        if first > last:
            continue
        if offset:
            listed = 3 * count + 1 + index + offset // 2
            glyphs = words[listed : listed + last + 1 - first]
            if len(glyphs) <= last - first:
                raise IndexError("the list of glyphs ends early")
            missing = [first + place for place, glyph in enumerate(glyphs) if not glyph] if 0 in glyphs else []
        else:
            missing = [code for code in (-delta & 0xFFFF,) if first <= code <= last]
        yield from _without(missing, first, last)


def _without(missing: Iterable[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The range from `first` to `last` without the missing code points, which are in ascending order."""
    for code in missing:
        if first < code:
            yield first, code - 1
        first = code + 1
    if first <= last:
        yield first, last
