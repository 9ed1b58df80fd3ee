# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""The visible box of a PDF page, by the rules of PDFium and poppler, which draw the page that MuPDF leaves white.

MuPDF gives a page whose CropBox is empty, or lies outside the MediaBox, the size of US Letter and draws none of its content.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

from pymupdf import mupdf

LEAST_EDGE = 1.0  # below it MuPDF takes the square from (0, 0) to (1, 1) instead


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in a page's own units, with its corners in order."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Self | None:
        """The box with these two opposite corners; None where they are not four finite numbers or the box is empty."""
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
            return None
        box = cls(min(numbers[0::2]), min(numbers[1::2]), max(numbers[0::2]), max(numbers[1::2]))
        return box if box.is_visible else None

    @property
    def is_visible(self) -> bool:
        return min(self.right - self.left, self.top - self.bottom) > 0

    @property
    def is_drawable(self) -> bool:
        return min(self.right - self.left, self.top - self.bottom) >= LEAST_EDGE

    def within(self, other: "Box") -> "Box":
        """The common part; it may be empty, with corners out of order."""
        return Box(
            max(self.left, other.left),
            max(self.bottom, other.bottom),
            min(self.right, other.right),
            min(self.top, other.top),
        )


LETTER = Box(0.0, 0.0, 612.0, 792.0)
"""The MediaBox of a page that has none."""


def visible_box(media: Box | None, crop: Box | None) -> Box:
    """The part of the MediaBox within the CropBox, or all of it where the CropBox is no box or does not meet it."""
    media = media or LETTER
    if crop is not None:
        common = crop.within(media)
        if common.is_drawable:
            return common
    return media


def repair_boxes(document: Any, page: Any) -> None:
    """Give a page object whose CropBox MuPDF cannot use the box that other viewers show. In memory only."""
    crop_value = mupdf.ll_pdf_dict_gets_inheritable(page.m_internal, "CropBox")
    if not mupdf.ll_pdf_is_array(crop_value):
        return  # of another kind or absent: MuPDF ignores it, too
    media = _read_box(mupdf.ll_pdf_dict_gets_inheritable(page.m_internal, "MediaBox"))
    crop = _read_box(crop_value)
    if media is None or crop is None or not crop.within(media).is_drawable:
        visible = mupdf.FzRect(*astuple(visible_box(media, crop)))
        for name in ("MediaBox", "CropBox"):
            mupdf.pdf_dict_puts(page, name, mupdf.pdf_new_rect(document, visible))


def _read_box(value: Any) -> Box | None:
    """None for anything but an array of four numbers, each of which may be a reference."""
    if not mupdf.ll_pdf_is_array(value) or mupdf.ll_pdf_array_len(value) != 4:
        return None
    items = [mupdf.ll_pdf_array_get(value, position) for position in range(4)]
    if not all(map(mupdf.ll_pdf_is_number, items)):
        return None
    return Box.of(list(map(mupdf.ll_pdf_to_real, items)))
