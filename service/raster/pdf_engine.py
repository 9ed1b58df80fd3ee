# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""Opens PDF bytes, counts pages and renders them, inside the worker process.

Only this module and the `pdf_` modules beside it use PyMuPDF.

Failures are named by the stage in which they happen, never by the library's text, which carries pieces of the document.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pymupdf
from PIL import Image
from pymupdf import mupdf

from model.pages.image import LONGEST_PAGE_EDGE
from service.degraded_reason import DegradedReason
from service.raster.page import (
    MIN_PDF_EDGE,
    OnDegradedPage,
    PagePixels,
    RasterFailure,
    require_sane_box,
)
from service.raster.pdf_audit import PageContent, ResourceAudit
from service.raster.pdf_boxes import repair_boxes
from service.raster.pdf_layers import Layers
from service.raster.pdf_placeholders import placeholder_of
from service.raster.pdf_streams import all_hold_what_is_needed
from service.raster.pdf_warnings import depend_on_streams, reasons_of

_MAGIC_WINDOW_BYTES = 1_024
_ROUNDING_PIXELS = 5  # more than MuPDF adds to an edge
_WHITE = b"\xff" * (3 * (LONGEST_PAGE_EDGE + 1) ** 2)
_SAMPLING_STEP = 4_093  # bytes: no column is met twice in a row
_INVISIBLE_TEXT = 3  # the rendering mode
_KEYS_OF_PAGES = ("Type", "Contents", "Annots")
_MEMORY_ERRORS = (MemoryError, mupdf.FzErrorSystem)

pymupdf.TOOLS.mupdf_display_errors(False)
pymupdf.TOOLS.mupdf_display_warnings(False)


class PdfDocument:
    """One open PDF. Not thread-safe, as MuPDF is not."""

    is_paged = True

    def __init__(self, data: bytes, *, on_degraded_page: OnDegradedPage = "auto") -> None:
        """Raises: RasterFailure, codes corrupt_document, encrypted_document, no_pages, page_memory, xfa_form, portfolio."""
        self._flags_everything = on_degraded_page == "flag"
        _forget_warnings()
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
            self._pdf = mupdf.pdf_document_from_fz_document(self._document.this)
            placeholder = placeholder_of(self._pdf, page_count=self.page_count)
        if self.page_count < 1:
            raise RasterFailure("no_pages")
        if placeholder is not None and not self._flags_everything:
            raise RasterFailure(placeholder)
        self._reasons = frozenset() if placeholder is None else frozenset({placeholder})
        with _failing_as("corrupt_document"):
            self._audit = ResourceAudit(Layers.of(self._pdf))

    def render(self, number: int, *, longest_edge: int = LONGEST_PAGE_EDGE) -> PagePixels:
        """Page `number` (1-based) with its longest edge at so many pixels, over white.

        Raises: RasterFailure, codes page_unreadable, bad_page_box, page_degraded, page_memory.
        """
        with _failing_as("page_unreadable"):
            page = self._document.load_page(number - 1)
            page_object = mupdf.pdf_page_from_fz_page(page.this).obj()
            if all(mupdf.ll_pdf_dict_gets(page_object.m_internal, key) is None for key in _KEYS_OF_PAGES):
                raise RasterFailure("page_unreadable")
            repair_boxes(self._pdf, page_object)
            reasons = self._audit.page(page_object)
            content = PageContent(self._pdf, page_object)
            reasons |= content.missing_fonts()
            _forget_warnings()
            area = page.rect
            width, height = area.width, area.height
            require_sane_box(width, height)
            scale = longest_edge / max(width, height)
            pixmap = _draw(page, scale)
            most_pixels = (longest_edge + _ROUNDING_PIXELS) ** 2
            if pixmap.n != 3 or pixmap.stride != pixmap.width * 3 or pixmap.width * pixmap.height > most_pixels:
                raise RasterFailure("bad_page_box", width=round(width), height=round(height))
            reasons |= self._lost_content(page_object) | self._reasons
            pixels = _fit(pixmap, longest_edge=longest_edge, degraded_reasons=tuple(sorted(reasons)))
            if _is_white(pixels.data) and (content.may_paint() or page.first_annot) and _paints_unseen(page, scale):
                pixels = replace(pixels, degraded_reasons=tuple(sorted(reasons | {DegradedReason.BLANK})))
        return pixels

    def _lost_content(self, page_object: Any) -> frozenset[DegradedReason]:
        """By the warnings since the last reset. Raises: RasterFailure, code page_degraded, where memory was short."""
        warnings = pymupdf.TOOLS.mupdf_warnings(reset=True)
        if not warnings:
            return frozenset()
        reasons = reasons_of(warnings)
        if reasons and depend_on_streams(warnings) and DegradedReason.MEMORY not in reasons:
            reasons = reasons_of(warnings, streams_are_whole=all_hold_what_is_needed(page_object))
        if reasons:
            # A damaged image is cached as decoded so far, and the next page that shows it would get no warning.
            pymupdf.TOOLS.store_shrink(100)
        if DegradedReason.MEMORY in reasons and not self._flags_everything:
            raise RasterFailure("page_degraded")
        return reasons

    def close(self) -> None:
        del self._audit, self._pdf  # which hold the document open
        self._document.close()


def _forget_warnings() -> None:
    """All documents of the process share one buffer, which only grows: 4 MB over 900 documents.

    To read it is the way to end a series of equal warnings; the next of them would otherwise merely be counted.
    """
    pymupdf.TOOLS.mupdf_warnings(reset=True)


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


def _draw(page: Any, scale: float) -> Any:
    """The page with its annotations over white, as an RGB pixmap.

    Without a display list, which takes 5 % longer, unless that fails: lists pass over more faults, with a warning.
    """
    space = mupdf.FzColorspace(mupdf.FzColorspace.Fixed_RGB)
    try:
        drawn = mupdf.fz_new_pixmap_from_page(page.this, mupdf.FzMatrix(scale, 0, 0, scale, 0, 0), space, 0)
    except Exception:  # noqa: BLE001 (the engine's errors have no common class)
        _forget_warnings()  # the list gives them again, or others
        return page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), colorspace=pymupdf.csRGB, alpha=False)
    return pymupdf.Pixmap("raw", drawn)


def _is_white(samples: bytes) -> bool:
    """Looks at a few samples first: those of most pages have ink among them."""
    return _WHITE.startswith(samples[::_SAMPLING_STEP]) and _WHITE.startswith(samples)


def _paints_unseen(page: Any, scale: float) -> bool:
    """Whether a page that came out white has something on it that left no trace: not even white paint.

    Blanks, invisible letters (of scanned pages) and content beyond the page's edges count as nothing.
    """
    small = page.get_pixmap(matrix=pymupdf.Matrix(scale / 8, scale / 8), colorspace=pymupdf.csGRAY, alpha=True)
    if any(small.samples[1::2]):
        return False
    painted = [kind for kind, box in page.get_bboxlog() if _meets(page.rect, box) and kind != "ignore-text"]
    if any("text" not in kind for kind in painted):
        return True
    return bool(painted) and any(
        not chr(code).isspace()
        for span in page.get_texttrace()
        if span["type"] != _INVISIBLE_TEXT and _meets(page.rect, span["bbox"])
        for code, *_ in span["chars"]
    )


def _meets(area: Any, box: Sequence[float]) -> bool:
    return bool(box[0] < area.x1 and box[2] > area.x0 and box[1] < area.y1 and box[3] > area.y0)


def _fit(
    pixmap: Any, *, degraded_reasons: tuple[DegradedReason, ...], longest_edge: int = LONGEST_PAGE_EDGE
) -> PagePixels:
    """Shrink an edge that MuPDF rounded up; extend a short one by white paper, because stretching would distort the page."""
    # `samples` is a copy; the view `samples_mv` does not keep the pixmap alive, and reading it later is a crash.
    width, height = pixmap.width, pixmap.height
    if max(width, height) <= longest_edge and min(width, height) >= MIN_PDF_EDGE:
        return PagePixels(width=width, height=height, data=pixmap.samples, degraded_reasons=degraded_reasons)
    image = Image.frombytes("RGB", (width, height), pixmap.samples)
    image = image.resize((min(width, longest_edge), min(height, longest_edge)), Image.Resampling.LANCZOS)
    paper = Image.new("RGB", (max(image.width, MIN_PDF_EDGE), max(image.height, MIN_PDF_EDGE)), "white")
    paper.paste(image, (0, 0))
    return PagePixels(width=paper.width, height=paper.height, data=paper.tobytes(), degraded_reasons=degraded_reasons)
