"""Renders text as a page image of a given size: black on white, wrapped at words, as large as fits. Any string can be drawn."""

from PIL import Image

from model.pages.typesetting import (
    SMALLEST_FONT,
    Canvas,
    Typeface,
    clean,
    draw_page,
    lay_out,
    lay_out_largest,
    words_of,
)


def render_text(text: str, *, width: int, height: int, font_size: int | None = None) -> Image.Image:
    """The text as an RGB image of `width` x `height` pixels. Line breaks are kept; other runs of spaces become one space.

    font_size: in pixels; None for the largest whole size at which all of the text fits. The rest is cut off at the bottom.
    Raises: ValueError for a width, height or font size below 1.
    """
    for name, value in (("width", width), ("height", height), ("font_size", font_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1 pixel.")
    canvas = Canvas(width=width, height=height)
    text = clean(text, most_characters=canvas.most_characters(font_size or SMALLEST_FONT))
    typeface = Typeface(text)
    paragraphs = [list(words_of(paragraph, longest=canvas.text_width)) for paragraph in text.split("\n")]
    layout = None
    if font_size is None:
        sizes = range(SMALLEST_FONT, canvas.largest_font + 1)
        layout = lay_out_largest(paragraphs, typeface, canvas, sizes)
    if layout is None:
        layout = lay_out(paragraphs, typeface.at(font_size or SMALLEST_FONT), canvas)
    return draw_page(layout.lines, layout.print, canvas)
