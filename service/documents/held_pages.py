"""How many newly drawn pages the requests being answered hold in memory, in all and by caller: a body of kilobytes may have a
hundred pages of megabytes each, which wait for the device as pixels."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import OverloadedError
from service.fair_queue import finds_room
from service.retry_after import retry_after

_USUAL_SECONDS = 2.0  # until a request gives pages back


class HeldPages:
    """Used on the event loop. Pages that the page cache had are not counted: they are in memory anyway."""

    def __init__(self, limit: int) -> None:
        """limit: of all requests together. Beyond it, up to twice as many, those find room who hold less than others."""
        self._limit = limit
        self._by_caller: Counter[str] = Counter()

    @property
    def pages(self) -> int:
        return self._by_caller.total()

    @contextmanager
    def share(self, share_id: str) -> Iterator["PageShare"]:
        """The pages of one request, which are given back when the block ends. share_id: see `Caller.share_id`."""
        share = PageShare(self, share_id)
        try:
            yield share
        finally:
            self._add(share_id, -share.pages)

    def take(self, share: "PageShare", pages: int) -> None:
        """Called by the share."""
        if not pages:
            return
        held = self.pages
        own, callers = self._by_caller[share.share_id], len(self._by_caller)
        has_room = finds_room(pages, own=own, waiting=held, limit=self._limit, callers=callers)
        self._add(share.share_id, pages if has_room or not held else 0)
        if held and not has_room:
            message = (
                f"The requests being answered hold {held} new pages, this one has {pages}, and the limit is {self._limit} "
                "(MAX_HELD_PAGES). Try again later, or register documents that are ranked often."
            )
            raise OverloadedError("overloaded", message, retry_after_seconds=retry_after(_USUAL_SECONDS))
        share.pages += pages

    def _add(self, share_id: str, pages: int) -> None:
        self._by_caller[share_id] += pages
        if not self._by_caller[share_id]:
            del self._by_caller[share_id]


class PageShare:
    """The pages that one request holds."""

    def __init__(self, held: HeldPages, share_id: str) -> None:
        self.share_id = share_id
        self.pages = 0
        self._held = held

    def take(self, pages: int) -> None:
        """Hold so many more. The first of all requests may hold any number. Raises: OverloadedError where there is no room."""
        self._held.take(self, pages)
