"""What the vision tower is asked about a made-up page: which letters, which word, and spelled how, lie under each patch.

Patches are in merge-block order, as the tower takes them: the four patches of a visual token next to each other. Knows how
pages are drawn, nothing of the network.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from model.training.demo.pages import HEIGHT, WIDTH, DrawnPage, PlacedWord

SPELLED_LETTERS = 10
"""Letters of a word that are asked for, from its start. 0 stands for behind the end, 1 to 26 for a to z, 27 for all else."""

SPELLING_CLASSES = 28
NO_WORD, STRANGE_WORD = -1, -2
WORDS_IN_TOKEN = 4
CLEAR_SHARE = 0.3
"""Of a visual token's print, for a word to be told there: with less it may be or not. Nearly every word has it somewhere."""

_PATCH, _MERGE = 16, 2
_LEAST_PATCH_SHARE = 0.12  # of a patch's area that a word must cover to be its word
_LEAST_CELL_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A page's size on the model's grid, in patches."""

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
    """P patches, V = P / 4 visual tokens."""

    words: np.ndarray  # int16 (P,): place of the word that covers most of it, NO_WORD or STRANGE_WORD
    spelling: np.ndarray  # uint8 (P, SPELLED_LETTERS): of that word
    letters: np.ndarray  # bool (P, 26): those that lie under it
    token_words: np.ndarray  # int16 (V, WORDS_IN_TOKEN): places of the known words under the token, then NO_WORD
    token_shares: np.ndarray  # float16 (V, WORDS_IN_TOKEN): their shares of its print, which add up to 1


def label_page(page: DrawnPage, grid: Grid) -> ReadingLabels:
    """The labels of a page that is resized to `grid`."""
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
    """Cells that a stretch of one axis touches, and how much of each it covers."""

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
    """The labels by row and column while words are added."""

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
        """The patches of which this word covers more than any before it."""
        place = (rows.cells, columns.cells)
        wins = area > self._covered[place]
        self._covered[place][wins] = area[wins]
        self.words[place][wins] = STRANGE_WORD if word.place is None else word.place
        self.spelling[place][wins] = spell(word.text)

    def _add_letters(self, text: str, left: float, right: float, rows: _Span) -> None:
        """Letters are taken as equally wide: the tower shall tell which, not where to the pixel."""
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
    """uint8 (SPELLED_LETTERS,)."""
    letters = [
        ord(letter) - ord("a") + 1 if letter in string.ascii_lowercase else 27 for letter in text[:SPELLED_LETTERS]
    ]
    return np.array(letters + [0] * (SPELLED_LETTERS - len(letters)), np.uint8)


def _merge_block_order(values: np.ndarray) -> np.ndarray:
    rows, columns, *rest = values.shape
    blocks = values.reshape(rows // _MERGE, _MERGE, columns // _MERGE, _MERGE, *rest).swapaxes(1, 2)
    return np.ascontiguousarray(blocks).reshape(-1, *rest)


def stack(labels: Sequence[ReadingLabels]) -> ReadingLabels:
    """The labels of many pages along a new first axis."""
    names = ReadingLabels.__dataclass_fields__
    return ReadingLabels(**{name: np.stack([getattr(each, name) for each in labels]) for name in names})
