"""A world small enough for tests."""

from pathlib import Path

from PIL import ImageFont

from model.pages.fonts import load_font
from model.training.demo.pages import Style

PILLOWS_OWN = "PillowsOwn"


def small_style(folder: Path) -> Style:
    """Print in Pillow's own font, which is the same everywhere, as a file in `folder`."""
    font = folder / f"{PILLOWS_OWN}.ttf"
    font.write_bytes(load_font(None, 16, ImageFont.Layout.BASIC).font_bytes)
    return Style(fonts=(font,))
