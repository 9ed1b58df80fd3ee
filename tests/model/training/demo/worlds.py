"""A world small enough for tests."""

import pytest

from model.fonts import installed_fonts
from model.training.demo.pages import Style


def small_style() -> Style:
    """Print in the first font of this machine."""
    fonts = installed_fonts()
    if not fonts:
        pytest.skip("this machine has no fonts; install one, for example fonts-dejavu-core")
    return Style(fonts=fonts[:1])
