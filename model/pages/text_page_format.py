"""The pages on which a checkpoint has learned to read text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPageFormat:
    """Lengths in pixels. The defaults are those of the published checkpoint's first training stage.

    A text is printed as large as fits a page of `width` x `height`, between the two sizes of print. Where it does not fit in
    the smallest, the page grows in both directions until its longer edge is `longest_edge`; a longer text takes several pages.
    """

    width: int = 280
    height: int = 280
    smallest_print: int = 13
    """`render_text` gives it to a passage of 107 English words (569 characters) on 280 px in Noto Sans, DejaVu Sans, DejaVu
    Serif and Pillow's own font; 12 px in Noto Serif, 14 in Liberation."""
    largest_print: int = 46
    longest_edge: int = 1024


PUBLISHED_TEXT_PAGE = TextPageFormat()
