"""Finds the fonts of this machine, the characters that each font covers, and the best font for a text.

Searches the font folders of Linux, macOS and Windows. Reads the character maps of font files itself, because Pillow draws
with a font but does not report its missing characters.
"""

import io
import os
import re
import struct
import sys
from collections.abc import Iterator
from functools import lru_cache
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


@lru_cache(maxsize=1)
def installed_fonts() -> tuple[Path, ...]:
    """The usable fonts of this machine, best first. If empty, only Pillow's built-in font is available."""
    found = {path for folder in _folders() for path in _font_files(folder)}
    return tuple(path for path in sorted(found, key=_preference) if _can_open(path))


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


def _can_open(path: Path) -> bool:
    try:
        ImageFont.truetype(path, _PROBE_SIZE)
    except OSError:  # a damaged file, or colour bitmaps of a fixed size
        return False
    return True


@lru_cache(maxsize=512)
def load_font(path: Path | None, size: int, layout: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    """The font at `size` pixels. A `path` of None is Pillow's built-in font."""
    if path is not None:
        return ImageFont.truetype(path, size, layout_engine=layout)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "with a size given, Pillow's own font is a scalable one"
    return font


@lru_cache(maxsize=256)
def choose_font(characters: frozenset[str]) -> Path | None:
    """The first installed font with all characters, else the first one with the most; None is Pillow's built-in font."""
    codes = frozenset(map(ord, characters))
    best, fewest_missing = None, len(codes) + 1
    for font in (*installed_fonts(), None):
        missing = len(codes - character_codes(font))
        if missing < fewest_missing:
            best, fewest_missing = font, missing
        if not missing:
            break
    return best


@lru_cache(maxsize=512)
def character_codes(path: Path | None) -> frozenset[int]:
    """The code points for which the font has a glyph; empty if the character map is unreadable.

    Source: the OpenType specification, tables `ttcf` and `cmap`.
    """
    try:
        with _open_font(path) as file:
            table = _character_map_table(file)
        return frozenset(code for subtable in _unicode_subtables(table) for code in _codes(subtable))
    except (OSError, struct.error, IndexError):
        return frozenset()


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


def _codes(subtable: bytes) -> Iterator[int]:
    """The code points that the subtable maps. Only formats 4 and 12 are read: today's Unicode fonts use no others."""
    (form,) = struct.unpack_from(">H", subtable)
    if form == 4:
        yield from _codes_of_segments(subtable)
    elif form == 12:
        (count,) = struct.unpack_from(">L", subtable, 12)
        for first, last, glyph in struct.iter_unpack(">LLL", subtable[16 : 16 + 12 * count]):
            yield from range(first + (glyph == 0), min(last, sys.maxunicode) + 1)


def _codes_of_segments(subtable: bytes) -> Iterator[int]:
    """The code points of format 4. A segment gives glyphs as code plus delta, or in a list; glyph 0 means a missing glyph."""
    (double_count,) = struct.unpack_from(">H", subtable, 6)
    count = double_count // 2
    words = struct.unpack_from(f">{(len(subtable) - 14) // 2}H", subtable, 14)
    lasts, firsts = words[:count], words[count + 1 : 2 * count + 1]
    deltas, offsets = words[2 * count + 1 : 3 * count + 1], words[3 * count + 1 : 4 * count + 1]
    for index, (first, last, delta, offset) in enumerate(zip(firsts, lasts, deltas, offsets, strict=True)):
        listed = 3 * count + 1 + index + offset // 2 - first
        for code in range(first, min(last, 0xFFFE) + 1):
            glyph = words[listed + code] if offset else (code + delta) & 0xFFFF
            if glyph:
                yield code
