"""Pages of text as a scanner or an office program would make them: JPEG images and PDFs, no two alike."""

import io
from collections.abc import Sequence

import numpy as np
import pymupdf
from PIL import Image, ImageDraw

A4_PIXELS = (724, 1024)
A4_POINTS = (595, 842)

_LINES = 48
_WORDS_A_LINE = 12


def page_text(number: int) -> list[str]:
    """The lines of page `number`: words of 2 to 8 letters."""
    generator = np.random.default_rng(number)
    lengths = generator.integers(2, 9, (_LINES, _WORDS_A_LINE))
    return [" ".join(_word(generator, length) for length in line) for line in lengths]


def _word(generator: np.random.Generator, length: int) -> str:
    return bytes(generator.integers(ord("a"), ord("z") + 1, length, dtype=np.uint8)).decode()


def make_jpeg_page(number: int) -> bytes:
    """An A4 page at 1024 px, about 120 KB."""
    image = Image.new("RGB", A4_PIXELS, "white")
    ImageDraw.Draw(image).multiline_text((40, 40), "\n".join(page_text(number)), fill="black")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def make_pdf(page_numbers: Sequence[int]) -> bytes:
    """An A4 PDF with these pages as text."""
    with pymupdf.open() as document:
        for number in page_numbers:
            width, height = A4_POINTS
            page = document.new_page(width=width, height=height)
            page.insert_text((40, 40), page_text(number), fontsize=9)
        return bytes(document.tobytes(deflate=True))
