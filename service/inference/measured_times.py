"""Learns from finished work how long work takes: batches, the loading of pages, and the last steps of an answer. Thread-safe.

Each time is the median of the last measurements, which a slow moment of the machine does not move. The first values are those
of the warm-up, which the first real batch replaces.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from threading import Lock
from typing import Literal

from model import PageScores
from service.inference.time_plan import Rates, size_class
from service.raster.page import Kind

_MEASUREMENTS_KEPT = 15
_RELAXED = 0.9  # of every time, after work was left out because of it
_ENCODING = ("upload", "vision")
_LANGUAGE = ("pack", "language")

_RATIOS_KEPT, _RATIO_SHARE = 32, 0.9
_FIRST_RATIO, _LARGEST_RATIO = 1.1, 2.0
_LEAVINGS_KEPT, _LEAVING_SHARE = 256, 0.99
_FIRST_LEAVING_SECONDS, _LEAST_LEAVING_SECONDS = 0.02, 0.002

_FIRST_PAGE_TOKENS, _FIRST_TEXT_TOKENS = 700.0, 300.0
_CHARACTERS_PER_TOKEN = 3

Part = Literal["load", "rank"]


class _Typical:
    """A time, or a number, as it usually is."""

    def __init__(self, first: float = 0.0) -> None:
        self.value = first
        self._measured: deque[float] = deque(maxlen=_MEASUREMENTS_KEPT)

    def add(self, value: float, *, is_provisional: bool = False) -> None:
        """is_provisional: the next value replaces it."""
        if is_provisional:
            self.value = value
        else:
            self._measured.append(value)
            self.value = median(self._measured)

    def relax(self) -> None:
        self._measured = deque((_RELAXED * value for value in self._measured), maxlen=_MEASUREMENTS_KEPT)
        self.value *= _RELAXED


class _TypicalBySize:
    """The time of a token by the size class of its batch."""

    def __init__(self) -> None:
        self._by_class: dict[int, _Typical] = {}
        self._is_provisional = True

    def add(self, value: float, *, size: float, is_provisional: bool) -> None:
        """is_provisional: the next value of any size replaces it."""
        if self._is_provisional and not is_provisional:
            self._by_class.clear()
        self._is_provisional = is_provisional
        self._by_class.setdefault(size_class(size), _Typical()).add(value)

    def values(self) -> dict[int, float]:
        return {size: typical.value for size, typical in self._by_class.items()}

    def relax(self) -> None:
        for typical in self._by_class.values():
            typical.relax()


class MeasuredTimes:
    """The times that are usual for one service. lanes: pages that are drawn side by side."""

    def __init__(self, *, lanes: int) -> None:
        self._lanes = lanes
        self._lock = Lock()
        self._visual_token, self._language_token, self._batch = _TypicalBySize(), _TypicalBySize(), _Typical()
        self._page_tokens, self._text_tokens = _Typical(_FIRST_PAGE_TOKENS), _Typical(_FIRST_TEXT_TOKENS)
        self._opening = _Typical()
        self._drawing = {kind: _Typical() for kind in Kind}
        self._ratios: dict[Part, deque[float]] = {
            part: deque([_FIRST_RATIO], maxlen=_RATIOS_KEPT) for part in ("load", "rank")
        }
        self._leavings = deque([_FIRST_LEAVING_SECONDS], maxlen=_LEAVINGS_KEPT)

    def record_batch(
        self,
        scores: Sequence[PageScores],
        stage_seconds: Mapping[str, float],
        *,
        seconds: float | None,
        is_provisional: bool = False,
    ) -> None:
        """A batch with the scores of its windows. seconds: of the batch as a whole; None where it shared the device.

        is_provisional: the next measurement replaces this one.
        """
        pages = sum(len(window.logits) for window in scores)
        visual = sum(window.visual_tokens for window in scores)
        encoded = sum(
            window.visual_tokens * (1 - window.cached_pages / len(window.logits)) for window in scores if window.logits
        )
        language = sum(window.prompt_tokens for window in scores)
        text = language - sum(window.kept_tokens for window in scores)
        encoding_seconds, language_seconds = (
            sum(stage_seconds.get(stage, 0.0) for stage in stages) for stages in (_ENCODING, _LANGUAGE)
        )
        with self._lock:
            if encoded > 0 and encoding_seconds > 0:
                self._visual_token.add(encoding_seconds / encoded, size=encoded, is_provisional=is_provisional)
            if language > 0 and language_seconds > 0:
                self._language_token.add(language_seconds / language, size=language, is_provisional=is_provisional)
            if seconds is not None:
                rest = max(0.0, seconds - encoding_seconds - language_seconds)
                self._batch.add(rest, is_provisional=is_provisional)
            if pages:
                self._page_tokens.add(visual / pages, is_provisional=is_provisional)
                self._text_tokens.add(max(0.0, text / len(scores)), is_provisional=is_provisional)

    def rates(self) -> Rates:
        with self._lock:
            return Rates(
                visual_token=self._visual_token.values(),
                language_token=self._language_token.values(),
                batch=self._batch.value,
            )

    @property
    def page_tokens(self) -> float:
        """Visual tokens of a page, before pruning."""
        return self._page_tokens.value

    def text_tokens(self, query_characters: int) -> float:
        """Tokens of a window's prompt beside the pages'."""
        return max(self._text_tokens.value, query_characters / _CHARACTERS_PER_TOKEN)

    def record_opening(self, documents: int, seconds: float) -> None:
        """Documents that were opened to learn their number of pages, by one request."""
        with self._lock:
            self._opening.add(seconds / self._rounds(documents))

    def opening_seconds(self, documents: int) -> float:
        """Expected, for so many documents of one request."""
        return self._opening.value * self._rounds(documents)

    def record_drawing(self, pages: Mapping[Kind, int], seconds: float) -> None:
        """Pages that one request had drawn and prepared, by the kind of their documents, in so many seconds of wall time."""
        pages = {kind: count for kind, count in pages.items() if count}
        total = sum(pages.values())
        if not total:
            return
        with self._lock:
            per_page = seconds * min(self._lanes, total) / total
            expected = sum(count * (self._drawing[kind].value or per_page) for kind, count in pages.items()) / total
            for kind in pages:
                typical = self._drawing[kind]
                typical.add((typical.value or per_page) * per_page / expected if expected > 0 else per_page)

    def drawing_seconds(self, kind: Kind, *, pages_of_request: int) -> float:
        """Expected wall time for one page among so many that a request has drawn."""
        return self._drawing[kind].value / max(1, min(self._lanes, pages_of_request))

    def record_ratio(self, part: Part, *, expected: float, actual: float) -> None:
        """The time that planned work took, against the expected one."""
        if expected > 0:
            with self._lock:
                self._ratios[part].append(actual / expected)

    def ratio(self, part: Part) -> float:
        """How many times the expected time nine of ten plans take at most; at least 1."""
        with self._lock:
            return min(_LARGEST_RATIO, max(1.0, _quantile(self._ratios[part], _RATIO_SHARE)))

    def record_leaving(self, seconds: float) -> None:
        """From the end of the ranking, or the moment when it was to be given up, until the answer was sent."""
        with self._lock:
            self._leavings.append(seconds)

    @property
    def leaving_seconds(self) -> float:
        """As many as 99 of 100 answers take at most for their last steps: writing, and waiting for the event loop."""
        with self._lock:
            return max(_LEAST_LEAVING_SECONDS, _quantile(self._leavings, _LEAVING_SHARE))

    def relax(self) -> None:
        """Expect a little less after work was left out for lack of time: without this, work that was measured in a slow
        moment might never be tried, and so never be measured, again."""
        with self._lock:
            for token in (self._visual_token, self._language_token):
                token.relax()
            for typical in (self._batch, self._opening, *self._drawing.values()):
                typical.relax()
            for ratios in self._ratios.values():
                ratios.append(1.0)

    def _rounds(self, documents: int) -> int:
        return max(1, math.ceil(documents / self._lanes))


def _quantile(values: Sequence[float] | deque[float], share: float) -> float:
    """The smallest of the values that so large a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
