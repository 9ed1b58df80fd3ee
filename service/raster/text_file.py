"""Lays out and draws plain texts, inside the worker process."""

from collections.abc import Iterator
from contextlib import contextmanager

from model.pages.image import LONGEST_PAGE_EDGE
from model.pages.text_layout import TextPages, TooManyTextPagesError, is_short
from model.pages.text_page_format import PUBLISHED_TEXT_PAGE, TextPageFormat
from service.degraded_reason import DegradedReason
from service.raster.page import (
    MAX_TEXT_PAGES,
    SINGLE_PAGE_OUTLINE,
    DocumentOutline,
    PagePixels,
    RasterFailure,
)


class TextFile:
    """One text, laid out when it is opened."""

    def __init__(self, data: bytes, format: TextPageFormat = PUBLISHED_TEXT_PAGE) -> None:
        """data: UTF-8. Raises: RasterFailure, codes empty_text, too_many_pages, page_memory."""
        with _failing():
            self._pages = TextPages(data.decode("utf-8", "replace"), most_pages=MAX_TEXT_PAGES, format=format)
            if not self._pages.has_ink():
                raise RasterFailure("empty_text")
        self.page_count = self._pages.page_count
        self.is_paged = self.page_count > 1

    def render(self, number: int, *, longest_edge: int = LONGEST_PAGE_EDGE) -> PagePixels:
        """Page `number` (1-based), in the format of the text's pages, which no longer edge makes larger.

        Raises: RasterFailure, codes empty_text, page_memory.
        """
        with _failing():
            page = self._pages.draw(number)
            data = page.tobytes()
            if self.page_count == 1 and page.getextrema() == ((255, 255),) * 3:
                raise RasterFailure("empty_text")
        reasons = (DegradedReason.CHARACTERS,) if self._pages.lacks_characters(number) else ()
        return PagePixels(width=page.width, height=page.height, data=data, degraded_reasons=reasons)

    def close(self) -> None:
        del self._pages


def outline_of_text(text: str) -> DocumentOutline | None:
    """The outline of a text so short that it has one page for certain; None for others, which must be laid out to know."""
    return SINGLE_PAGE_OUTLINE if is_short(text) else None


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except TooManyTextPagesError as error:
        raise RasterFailure("too_many_pages") from error
    except MemoryError as error:
        raise RasterFailure("page_memory") from error
