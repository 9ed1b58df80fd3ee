"""The fonts of a machine: their order, their character maps, the choice for a text, and how little of them is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import ImageFont

from model.pages import fonts
from model.pages.fonts import Coverage, choose_fonts, coverage_of, has_font, installed_fonts, is_usable, load_font
from tests.model.pages.fonts import font_folder, pillows_own_font

__all__ = ["font_folder"]

FONT_FILES = [
    "NotoSans[wdth,wght].ttf", "DejaVuSans.ttf", "LiberationSans-Regular.ttf", "arial.ttf",
    "NotoSansThai-Regular.otf", "FreeSans.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf",
]  # fmt: skip
"""In the order in which they shall be tried."""


def test_fonts_are_listed_the_preferred_ones_first(font_folder: Path) -> None:
    (font_folder / "deeper").mkdir()
    for number, name in enumerate(sorted(FONT_FILES)):
        (font_folder / ("deeper" if number % 2 else "") / name).write_bytes(pillows_own_font())
    for unwanted in ("DejaVuSans-Bold.ttf", "NotoColorEmoji.ttf", "Lato-LightItalic.ttf", "a.pfb"):
        (font_folder / unwanted).write_bytes(pillows_own_font())
    assert [path.name for path in installed_fonts()] == FONT_FILES


def test_without_a_font_folder_none_is_listed(font_folder: Path) -> None:
    font_folder.rmdir()
    assert installed_fonts() == ()


def test_the_fonts_of_this_machine_are_files_listed_once() -> None:
    found = installed_fonts()
    assert all(isinstance(path, Path) and path.exists() for path in found)
    assert len(set(found)) == len(found)


def test_a_font_is_read_only_when_the_ones_before_it_lack_a_letter(
    font_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each at most once: a machine with 2,000 fonts takes most of a second for all."""
    for number in range(5):
        (font_folder / f"a{number}.ttf").write_bytes(pillows_own_font())
    read: list[Path] = []
    opened: list[Path] = []
    open_font, load = fonts._open_font, fonts.load_font

    def read_and_note(path: Path | None) -> BinaryIO:
        read.extend([path] if path else [])
        return open_font(path)

    def open_and_note(path: Path | None, size: int, layout: ImageFont.Layout) -> ImageFont.FreeTypeFont:
        opened.extend([path] if path else [])
        return load(path, size, layout)

    monkeypatch.setattr(fonts, "_open_font", read_and_note)
    monkeypatch.setattr(fonts, "load_font", open_and_note)
    assert choose_fonts(frozenset("abc")).first == font_folder / "a0.ttf"
    assert read == opened == [font_folder / "a0.ttf"]
    for text in ("abж", "中", "ab\ue000"):
        choose_fonts(frozenset(text))
    assert sorted(read) == [font_folder / f"a{number}.ttf" for number in range(5)]
    assert set(opened) == {font_folder / "a0.ttf"}


def test_a_damaged_font_is_never_chosen(font_folder: Path) -> None:
    """Nor one whose map is in order, but which Pillow cannot open."""
    whole = pillows_own_font()
    (font_folder / "a.ttf").write_bytes(b"no font")
    (font_folder / "b.ttf").write_bytes(whole.replace(b"head", b"haed", 1))
    (font_folder / "c.ttf").write_bytes(whole)
    assert [is_usable(path) for path in installed_fonts()] == [False, False, True]
    assert len(coverage_of(font_folder / "b.ttf")) > 100
    for characters in ("abc", "abc中"):
        assert choose_fonts(frozenset(characters)).first == font_folder / "c.ttf"


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four fonts, and Pillow's own."""
    codes = {"latin": "abc", "greek": "αβγ", "both": "abcαβγ", "thai": "กขค", None: "abcж"}
    monkeypatch.setattr(fonts, "installed_fonts", lambda: tuple(Path(name) for name in codes if name))
    monkeypatch.setattr(
        fonts,
        "coverage_of",
        lambda path: Coverage((ord(letter), ord(letter)) for letter in codes[path and path.name]),
    )
    monkeypatch.setattr(fonts, "is_usable", lambda path: True)
    fonts._first_owners.cache_clear()
    yield
    fonts._first_owners.cache_clear()


@pytest.mark.parametrize(
    ("characters", "chosen"),
    [("ab", "latin"), ("αβ", "greek"), ("aα", "both"), ("bж", None), ("abж", None), ("ac中", "latin"), ("", "latin")],
)
def test_the_first_font_with_most_of_the_characters_is_chosen(maps: None, characters: str, chosen: str | None) -> None:
    choice = choose_fonts(frozenset(characters))
    assert choice.first == (chosen and Path(chosen)) and not choice.others
    assert choice.missing == frozenset(characters) & {"中"}


def test_characters_that_the_first_font_lacks_come_from_others(maps: None) -> None:
    choice = choose_fonts(frozenset("กขคabж中"))
    assert choice.first == Path("thai") and choice.missing == {"中"}
    assert choice.others == {"a": Path("latin"), "b": Path("latin"), "ж": None}


def test_other_fonts_are_usable_ones(maps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "is_usable", lambda path: path not in (Path("greek"), Path("thai")))
    choice = choose_fonts(frozenset("aαกж"))
    assert choice.first == Path("both") and choice.others == {"ж": None} and choice.missing == {"ก"}


def test_a_text_takes_a_bounded_number_of_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = [chr(0x4E00 + number) for number in range(50)]
    codes = {Path(f"f{number:02}"): letter for number, letter in enumerate(letters)}
    monkeypatch.setattr(fonts, "installed_fonts", lambda: tuple(codes))
    monkeypatch.setattr(fonts, "coverage_of", lambda path: Coverage([(ord(codes[path]),) * 2] if path in codes else []))
    monkeypatch.setattr(fonts, "is_usable", lambda path: True)
    fonts._first_owners.cache_clear()
    choice = choose_fonts(frozenset(letters))
    fonts._first_owners.cache_clear()
    assert len(set(choice.others.values())) == len(choice.others) == 8
    assert len(choice.missing) == 50 - 9


def test_a_character_map_says_what_the_font_can_draw() -> None:
    """Pillow's own font is the same everywhere: its sign for a missing glyph is drawn for exactly what the map lacks."""
    coverage = coverage_of(None)
    font = load_font(None, 30, ImageFont.Layout.BASIC)
    missing = bytes(font.getmask("\U0010ffff"))
    for character in "Aazé€жع中":
        assert (ord(character) in coverage) == (bytes(font.getmask(character)) != missing), character


def test_a_damaged_font_has_no_characters(tmp_path: Path) -> None:
    for name, content in {"a.ttf": b"", "b.ttf": b"\x00\x01\x00\x00\x00\x09", "c.ttf": b"ttcf" + b"\xff" * 20}.items():
        (tmp_path / name).write_bytes(content)
        assert len(coverage_of(tmp_path / name)) == 0


def test_ranges_are_joined_and_looked_up() -> None:
    coverage = Coverage([(50, 60), (10, 20), (21, 30), (15, 25)])
    assert list(coverage.ranges()) == [(10, 30), (50, 60)] and len(coverage) == 32
    assert [code in coverage for code in (9, 10, 30, 31, 49, 50, 60, 61)] == [False, True, True, False] * 2


@pytest.mark.parametrize(
    ("missing", "expected"), [([], [(5, 9)]), ([5], [(6, 9)]), ([7, 8], [(5, 6), (9, 9)]), ([5, 6, 7, 8, 9], [])]
)
def test_missing_glyphs_are_holes_in_a_range(missing: list[int], expected: list[tuple[int, int]]) -> None:
    assert list(fonts._without(missing, 5, 9)) == expected


def test_a_letter_without_any_font_is_known(font_folder: Path) -> None:
    assert [has_font(letter) for letter in "aZ中"] == [True, True, False]
