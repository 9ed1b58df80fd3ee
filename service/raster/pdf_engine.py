# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""Opens PDF bytes, counts pages and renders them, inside the worker process.

Only this module and the `pdf_` modules beside it use PyMuPDF.

Failures are named by the stage in which they happen, never by the library's text, which carries pieces of the document.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymupdf
from PIL import Image

from model.pages.image import LONGEST_PAGE_EDGE
from service.degraded_reason import DegradedReason
from service.raster.page import MIN_PDF_EDGE, OnDegradedPage, PagePixels, RasterFailure, require_sane_box
from service.raster.pdf_boxes import repair_boxes
from service.raster.pdf_placeholders import placeholder_of

_MAGIC_WINDOW_BYTES = 1_024
_MAX_PIXMAP_PIXELS = 1_060_000
_MEMORY_ERRORS = (MemoryError, pymupdf.mupdf.FzErrorSystem)

# After these warnings MuPDF goes on and leaves white paper in place of the content; the page must not be scored in silence.
_LOST_TO_MEMORY = (
    "insufficient memory",
    "not enough memory",
    "out of memory",
    "malloc",
    "realloc",
    "calloc",
    "exceeds system limits",  # from OpenJPEG: seen with 500 MiB and a JPEG2000 image of 6,000 × 6,000
)
_LOST_CONTENT = (
    "ignoring error during interpretation",
    "library error",
    "padding truncated image",
    "treating as end of file",
)

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)


class PdfDocument:
    """One open PDF. Not thread-safe, as MuPDF is not."""

    is_paged = True

    def __init__(self, data: bytes, *, on_degraded_page: OnDegradedPage = "auto") -> None:
        """Raises: RasterFailure, codes corrupt_document, encrypted_document, no_pages, page_memory, xfa_form, portfolio."""
        self._flags_everything = on_degraded_page == "flag"
        pymupdf.TOOLS.reset_mupdf_warnings()
        # `filetype` does not restrict MuPDF: HTML, EPUB and images open as well, so check before and after.
        if b"%PDF-" not in data[:_MAGIC_WINDOW_BYTES]:
            raise RasterFailure("corrupt_document")
        with _failing_as("corrupt_document"):
            self._document = pymupdf.open(stream=data, filetype="pdf")
            if not self._document.is_pdf:
                raise RasterFailure("corrupt_document")
            if self._document.needs_pass and not self._document.authenticate(""):
                raise RasterFailure("encrypted_document")
            self.page_count = int(self._document.page_count)
            placeholder = placeholder_of(self._document)
        if self.page_count < 1:
            raise RasterFailure("no_pages")
        if placeholder is not None and not self._flags_everything:
            raise RasterFailure(placeholder)
        self._reasons = () if placeholder is None else (placeholder,)

    def render(self, number: int) -> PagePixels:
        """Page `number` (1-based) with its longest edge at 1024 pixels, over white.

        Raises: RasterFailure, codes page_unreadable, bad_page_box, page_degraded, page_memory.
        """
        # All documents of the process share one warning buffer, which only grows: 4 MB over 900 documents.
        pymupdf.TOOLS.reset_mupdf_warnings()
        with _failing_as("page_unreadable"):
            page = self._document.load_page(number - 1)
            repair_boxes(pymupdf.mupdf.pdf_page_from_fz_page(page.this).obj())
            width, height = page.rect.width, page.rect.height
            require_sane_box(width, height)
            scale = LONGEST_PAGE_EDGE / max(width, height)
            pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), colorspace=pymupdf.csRGB, alpha=False)
            if pixmap.n != 3 or pixmap.stride != pixmap.width * 3 or pixmap.width * pixmap.height > _MAX_PIXMAP_PIXELS:
                raise RasterFailure("bad_page_box", width=round(width), height=round(height))
        degraded = _has_lost_content(pymupdf.TOOLS.mupdf_warnings(reset=True))
        reasons = (*self._reasons, *((DegradedReason.IMAGE,) if degraded else ()))
        return _fit(pixmap, degraded_reasons=reasons)

    def close(self) -> None:
        self._document.close()


@contextmanager
def _failing_as(code: str) -> Iterator[None]:
    try:
        yield
    except RasterFailure:
        raise
    except _MEMORY_ERRORS as error:
        raise RasterFailure("page_memory") from error
    except Exception as error:
        raise RasterFailure(code) from error


def _has_lost_content(warnings: str) -> bool:
    """Raises: RasterFailure, code page_degraded, if content was lost for want of memory."""
    lowered = warnings.lower()
    lost_to_memory = any(sign in lowered for sign in _LOST_TO_MEMORY)
    lost_content = lost_to_memory or any(sign in lowered for sign in _LOST_CONTENT)
    if lost_content:
        # A damaged image is cached as decoded so far, and the next page that shows it would get no warning.
        pymupdf.TOOLS.store_shrink(100)
    if lost_to_memory:
        raise RasterFailure("page_degraded")
    return lost_content


def _fit(pixmap: Any, *, degraded_reasons: tuple[DegradedReason, ...]) -> PagePixels:
    """Shrink an edge that MuPDF rounded up; extend a short one by white paper, because stretching would distort the page."""
    # `samples` is a copy; the view `samples_mv` does not keep the pixmap alive, and reading it later is a crash.
    width, height = pixmap.width, pixmap.height
    if max(width, height) <= LONGEST_PAGE_EDGE and min(width, height) >= MIN_PDF_EDGE:
        return PagePixels(width=width, height=height, data=pixmap.samples, degraded_reasons=degraded_reasons)
    image = Image.frombytes("RGB", (width, height), pixmap.samples)
    image = image.resize((min(width, LONGEST_PAGE_EDGE), min(height, LONGEST_PAGE_EDGE)), Image.Resampling.LANCZOS)
    paper = Image.new("RGB", (max(image.width, MIN_PDF_EDGE), max(image.height, MIN_PDF_EDGE)), "white")
    paper.paste(image, (0, 0))
    return PagePixels(width=paper.width, height=paper.height, data=paper.tobytes(), degraded_reasons=degraded_reasons)
