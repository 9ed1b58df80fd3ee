"""The records and bounds that a worker process and its parent share: kinds, outlines, pages, failures, settings.

Imports the standard library, the page constants and the reasons only, so that a worker starts fast.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from model.pages.image import MAX_ASPECT_RATIO
from service.degraded_reason import DegradedReason

MAX_FRAMES = 1_000
MAX_TEXT_PAGES = 200  # of 1024 px: about 1.5 million characters in English
MIN_PDF_EDGE = 28
MEMORY_EXIT_STATUS = 71  # of a worker that ran out of memory between two replies
LONGEST_VIEW_EDGE = 2400
"""In pixels, of pages that are drawn for people: an A4 page is then 1,697 pixels wide."""

# MuPDF rounds a page box outwards, so an edge of one pixel more exists for a moment; whole memory pages of 4 KiB. Memory that
# no page has been written to costs nothing.
SLOT_BYTES = -(-((LONGEST_VIEW_EDGE + 1) ** 2) * 3 // 4096) * 4096

FAILURE_CODES = frozenset(
    {
        "xfa_form",
        "portfolio",
        "content_lost",
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
        "empty_text",
    }
)


OnDegradedPage = Literal["auto", "error", "flag"]
"""Pages that lost content. auto: refused where memory was short and where a page stands in for others, else flagged."""


class Kind(StrEnum):
    """The kinds of documents. Those of files are told by their first bytes; a text is whatever its sender calls a text."""

    PDF = "pdf"
    IMAGE = "image"
    TEXT = "text"  # in UTF-8

    @property
    def stage(self) -> Literal["render", "decode"]:
        """The stage in metrics and timings that making a page of this kind counts as."""
        return "decode" if self is Kind.IMAGE else "render"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentOutline:
    """The number of a document's pages, known once it has been opened."""

    page_count: int
    is_paged: bool  # False: a single image or a short text, whose one page has no number


SINGLE_PAGE_OUTLINE = DocumentOutline(page_count=1, is_paged=False)
"""Of an image in a format that holds one image only, or of a short text: known without opening it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Limits that a worker process enforces itself. Passed to it as JSON, field by field."""

    memory_bytes: int  # of address space
    cpu_seconds: float  # of processor time that one task may add before the kernel ends the process
    max_image_pixels: int
    max_image_edge: int
    on_degraded_page: OnDegradedPage = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePixels:
    """One page inside the worker process."""

    width: int
    height: int
    data: bytes  # height × width × 3, RGB, no padding between rows
    degraded_reasons: tuple[DegradedReason, ...]  # kinds of content that are missing from the page


class RasterFailure(Exception):
    """A document that cannot be turned into pages.

    Carries a code and sizes but no text: a library's message about hostile bytes must not leave the worker.
    """

    def __init__(self, code: str, *, width: int | None = None, height: int | None = None) -> None:
        assert code in FAILURE_CODES, f"{code} is not a raster failure"
        super().__init__(code)
        self.code = code
        self.width = width
        self.height = height


def require_sane_box(width: float, height: float) -> None:
    """Refuse shapes that no real page has: a 1024 × 1 page has crashed model servers (CVE-2026-22773).

    Raises: RasterFailure, code bad_page_box; NaN and infinity included.
    """
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise RasterFailure("bad_page_box")
    if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        raise RasterFailure("bad_page_box", width=_whole(width), height=_whole(height))


def _whole(length: float) -> int:
    return min(round(length), 2**31 - 1)
