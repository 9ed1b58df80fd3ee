"""Tests with and without the fonts of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import ImageFont

from model.pages import fonts

with_any_fonts = pytest.mark.parametrize("installed", ["no fonts", "this machine's fonts"], indirect=True)


@pytest.fixture(autouse=True)
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No fonts but Pillow's own, unless a test asks for this machine's."""
    if getattr(request, "param", "no fonts") == "no fonts":
        monkeypatch.setattr(fonts, "installed_fonts", tuple)
    fonts._first_owners.cache_clear()
    yield
    fonts._first_owners.cache_clear()


@pytest.fixture
def font_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one folder where fonts are looked for."""
    monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path])
    for cached in (fonts.installed_fonts, fonts._first_owners):
        cached.cache_clear()
    yield tmp_path
    for cached in (fonts.installed_fonts, fonts._first_owners):
        cached.cache_clear()


def pillows_own_font() -> bytes:
    """The file of a font that is the same everywhere."""
    return fonts.load_font(None, 16, ImageFont.Layout.BASIC).font_bytes
