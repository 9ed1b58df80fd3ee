"""The pages of a document that a client selects, as text such as "3,1-2,7-". They stay ranges until the page count is known.

Errors have the field `pages`; the caller adds the document.
"""

import re
from dataclasses import dataclass

from service.errors import InvalidRequestError, PageOutOfRangeError

MAX_TEXT_CHARACTERS = 1_000
_ITEM = re.compile(r" *([0-9]{1,9}) *(?:(-) *([0-9]{1,9})? *)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSelection:
    """Ranges of 1-based page numbers, in the order they were written; a `last` of None is the document's last page."""

    ranges: tuple[tuple[int, int | None], ...]

    def spans(self, page_count: int) -> tuple[range, ...]:
        """The page numbers in the order written, duplicates dropped, as disjoint ranges.

        They are not expanded, so that their lengths can be checked against a limit first.
        Raises: PageOutOfRangeError, a number above `page_count`.
        """
        if (missing := self.first_missing(page_count)) is not None:
            message = f"page {missing} does not exist; the document has {page_count} page(s)."
            raise PageOutOfRangeError("page_out_of_range", message, field="pages")
        return self.existing_spans(page_count)

    def existing_spans(self, page_count: int) -> tuple[range, ...]:
        """As `spans`, without the numbers above `page_count`."""
        spans: list[range] = []
        for first, last in self.ranges:
            end = page_count if last is None else min(last, page_count)
            if first <= end:
                spans += _uncovered(range(first, end + 1), covered=spans)
        return tuple(spans)

    def first_missing(self, page_count: int) -> int | None:
        """The first written number above `page_count`, of a range its end; None: all pages exist."""
        written = (first if last is None else last for first, last in self.ranges)
        return next((number for number in written if number > page_count), None)


def parse_page_selection(text: str) -> PageSelection:
    """Read `a`, `a-b` or `a-` (to the end), separated by commas.

    Raises: InvalidRequestError for other syntax, PageOutOfRangeError for page 0 and for ranges that run backwards.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidRequestError(
            "invalid_request",
            f"{len(text)} characters, at most {MAX_TEXT_CHARACTERS} are read; write ranges such as 1-50.",
            field="pages",
        )
    items = enumerate(text.split(","), start=1)
    return PageSelection(ranges=tuple(_parse_item(item, position=position) for position, item in items))


def _parse_item(item: str, *, position: int) -> tuple[int, int | None]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise InvalidRequestError(
            "invalid_request",
            f"item {position} is not a page (3), a range (1-5) or an open range (7-) "
            "with numbers of at most 9 digits; separate items by commas.",
            field="pages",
        )
    first = int(match[1])
    last = int(match[3]) if match[3] else (None if match[2] else first)
    if first == 0 or last == 0:
        message = "0 is not a page; pages are numbered from 1."
        raise PageOutOfRangeError("page_out_of_range", message, field="pages")
    if last is not None and last < first:
        message = f"{first}-{last} runs backwards; write {last}-{first}, or the pages one by one."
        raise PageOutOfRangeError("page_out_of_range", message, field="pages")
    return first, last


def _uncovered(span: range, *, covered: list[range]) -> list[range]:
    """The parts of `span` outside `covered`. Intervals, not numbers: "1-,1-,1-" must not cost three times the document."""
    parts = [span]
    for other in covered:
        rests: list[range] = []
        for part in parts:
            before = range(part.start, min(part.stop, other.start))
            after = range(max(part.start, other.stop), part.stop)
            rests += [rest for rest in (before, after) if rest]
        parts = rests
    return parts
