"""Makes the reading labels of a synthetic page: the letters, the word and its spelling in each patch and visual token.

Patches are in merge-block order, as in the vision tower: the four patches of a visual token are adjacent.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from model.training.demo.pages import HEIGHT, WIDTH, DrawnPage, PlacedWord

SPELLED_LETTERS = 10
"""The number of leading letters in a spelling. Classes: 0 after the end of the word, 1 to 26 for a to z, 27 for others."""

SPELLING_CLASSES = 28
NO_WORD, STRANGE_WORD = -1, -2
WORDS_IN_TOKEN = 4
CLEAR_SHARE = 0.3
"""The share of a visual token's printed area that makes a word count as present there.

Words with a smaller share are neither present nor absent. Nearly every word reaches the share in some token.
"""

_PATCH, _MERGE = 16, 2
_LEAST_PATCH_SHARE = 0.12  # of the area of a patch: a word that covers less is not its word
_LEAST_CELL_SHARE = 0.05  # of the area of a patch: a word that covers less does not count for its visual token


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The size of a page on the model's grid, in patches."""

    rows: int
    columns: int

    @property
    def patch_count(self) -> int:
        return self.rows * self.columns

    @property
    def token_count(self) -> int:
        return self.patch_count // _MERGE**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLabels:
    """The labels of a page with P patches and V = P / 4 visual tokens."""

    words: np.ndarray  # int16 (P,): place of the word that covers most of the patch, NO_WORD or STRANGE_WORD
    spelling: np.ndarray  # uint8 (P, SPELLED_LETTERS): spelling of that word
    letters: np.ndarray  # bool (P, 26): letters in the patch
    token_words: np.ndarray  # int16 (V, WORDS_IN_TOKEN): places of the known words in the token, padded with NO_WORD
    token_shares: np.ndarray  # float16 (V, WORDS_IN_TOKEN): their shares of its printed area; sum 1, or 0 if empty


def label_page(page: DrawnPage, grid: Grid) -> ReadingLabels:
    """The labels of a page after it is resized to `grid`."""
    sheet = _Sheet(grid)
    for word in page.words:
        sheet.add(word)
    token_words, token_shares = sheet.token_words()
    return ReadingLabels(
        words=_merge_block_order(sheet.words),
        spelling=_merge_block_order(sheet.spelling),
        letters=_merge_block_order(sheet.letters),
        token_words=token_words,
        token_shares=token_shares,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The cells that an interval on one axis touches, and the covered share of each."""

    start: int
    shares: np.ndarray  # float (cells,)

    @property
    def cells(self) -> slice:
        return slice(self.start, self.start + len(self.shares))


def _span(low: float, high: float, count: int) -> _Span:
    start, end = max(int(low), 0), min(int(high) + 1, count)
    cells = np.arange(start, max(end, start))
    return _Span(start=start, shares=np.clip(np.minimum(cells + 1, high) - np.maximum(cells, low), 0, 1))


class _Sheet:
    """Collects the labels of a page by row and column, word by word."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        shape = (grid.rows, grid.columns)
        self._covered = np.full(shape, _LEAST_PATCH_SHARE, np.float32)
        self._cells: dict[int, dict[int, float]] = {}
        self.words = np.full(shape, NO_WORD, np.int16)
        self.spelling = np.zeros((*shape, SPELLED_LETTERS), np.uint8)
        self.letters = np.zeros((*shape, 26), bool)

    def add(self, word: PlacedWord) -> None:
        left, top, right, bottom = self._in_patches(word.box)
        rows, columns = _span(top, bottom, self._grid.rows), _span(left, right, self._grid.columns)
        area = rows.shares[:, None] * columns.shares[None]
        self._claim(word, rows, columns, area)
        self._add_letters(word.text, left, right, rows)
        if word.place is not None:
            self._share_out(word.place, rows, columns, area)

    def token_words(self) -> tuple[np.ndarray, np.ndarray]:
        words = np.full((self._grid.token_count, WORDS_IN_TOKEN), NO_WORD, np.int16)
        shares = np.zeros((self._grid.token_count, WORDS_IN_TOKEN), np.float16)
        for token, areas in self._cells.items():
            largest = sorted(areas.items(), key=lambda item: -item[1])[:WORDS_IN_TOKEN]
            total = sum(area for _, area in largest)
            for index, (place, area) in enumerate(largest):
                words[token, index], shares[token, index] = place, area / total
        return words, shares

    def _in_patches(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        across, down = self._grid.columns / WIDTH, self._grid.rows / HEIGHT
        left, top, right, bottom = box
        return left * across, top * down, right * across, bottom * down

    def _claim(self, word: PlacedWord, rows: _Span, columns: _Span, area: np.ndarray) -> None:
        """Assign the patches of which this word covers more than any earlier word."""
        place = (rows.cells, columns.cells)
        wins = area > self._covered[place]
        self._covered[place][wins] = area[wins]
        self.words[place][wins] = STRANGE_WORD if word.place is None else word.place
        self.spelling[place][wins] = spell(word.text)

    def _add_letters(self, text: str, left: float, right: float, rows: _Span) -> None:
        """Mark the letters in each patch as if all were equally wide: their exact positions do not matter."""
        if not set(text) <= set(string.ascii_lowercase):
            return
        well_covered = rows.start + np.flatnonzero(rows.shares > 0.3)
        width = (right - left) / len(text)
        for index, letter in enumerate(text):
            for inner in (0.25, 0.75):
                column = int(left + (index + inner) * width)
                if column < self._grid.columns:
                    self.letters[well_covered, column, ord(letter) - ord("a")] = True

    def _share_out(self, place: int, rows: _Span, columns: _Span, area: np.ndarray) -> None:
        across = self._grid.columns // _MERGE
        for row, column in np.argwhere(area > _LEAST_CELL_SHARE):
            token = (rows.start + row) // _MERGE * across + (columns.start + column) // _MERGE
            areas = self._cells.setdefault(int(token), {})
            areas[place] = areas.get(place, 0.0) + float(area[row, column])


@lru_cache(maxsize=10_000)
def spell(text: str) -> np.ndarray:
    """The classes of the leading letters, uint8 (SPELLED_LETTERS,); see `SPELLED_LETTERS`."""
    letters = [
        ord(letter) - ord("a") + 1 if letter in string.ascii_lowercase else 27 for letter in text[:SPELLED_LETTERS]
    ]
    return np.array(letters + [0] * (SPELLED_LETTERS - len(letters)), np.uint8)


def _merge_block_order(values: np.ndarray) -> np.ndarray:
    """Reorder (rows, columns, …) to (P, …)."""
    rows, columns, *rest = values.shape
    blocks = values.reshape(rows // _MERGE, _MERGE, columns // _MERGE, _MERGE, *rest).swapaxes(1, 2)
    return np.ascontiguousarray(blocks).reshape(-1, *rest)


def stack(labels: Sequence[ReadingLabels]) -> ReadingLabels:
    """The labels of many pages along a new first axis."""
    names = ReadingLabels.__dataclass_fields__
    return ReadingLabels(**{name: np.stack([getattr(each, name) for each in labels]) for name in names})
