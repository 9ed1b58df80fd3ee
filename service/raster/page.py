"""What one rastered page is, what may keep a document from becoming pages, and the bounds both sides of the pipe rely on.

Imported by the worker process and by its parent; knows nothing of either, nor of MuPDF.
"""

from dataclasses import dataclass

from model.pages.image import LONGEST_PAGE_EDGE, MAX_ASPECT_RATIO

MAX_FRAMES = 1_000
MIN_PDF_EDGE = 28
MEMORY_EXIT_STATUS = 71  # how a worker that ran out of memory between two replies says so
# MuPDF rounds a page box outwards, so an edge of one pixel more exists for a moment; whole memory pages of 4 KiB.
SLOT_BYTES = -(-((LONGEST_PAGE_EDGE + 1) ** 2) * 3 // 4096) * 4096

FAILURE_CODES = frozenset(
    {
        "encrypted_document",
        "corrupt_document",
        "no_pages",
        "page_unreadable",
        "bad_page_box",
        "page_degraded",
        "page_memory",
        "page_crashed",
        "corrupt_image",
        "image_too_many_pixels",
        "too_many_pages",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentOutline:
    """What is known of a document once it has been opened."""

    page_count: int
    is_paged: bool  # False: a single image, whose one page has no number


SINGLE_IMAGE = DocumentOutline(page_count=1, is_paged=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePixels:
    """One page, inside the worker: `data` holds height × width × 3 bytes, RGB, no padding between rows."""

    width: int
    height: int
    data: bytes
    degraded: bool


class RasterFailure(Exception):
    """A document that cannot be turned into pages.

    Carries a code and sizes but no text: what libraries say about hostile bytes must not leave the worker.
    """

    def __init__(self, code: str, *, width: int | None = None, height: int | None = None) -> None:
        assert code in FAILURE_CODES, f"{code} is not a raster failure"
        super().__init__(code)
        self.code = code
        self.width = width
        self.height = height


def require_sane_box(width: float, height: float) -> None:
    """Refuse a shape that no reader means: a 1024 × 1 page has crashed model servers (CVE-2026-22773).

    Raises: RasterFailure, code bad_page_box; NaN and infinity included.
    """
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise RasterFailure("bad_page_box")
    if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        raise RasterFailure("bad_page_box", width=_whole(width), height=_whole(height))


def _whole(length: float) -> int:
    return min(round(length), 2**31 - 1)
