"""Questions to the pages of real PDFs: words of the text layer that stand together on one page only of the candidates.

Pages are rendered as the service renders them. Knows no model.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pymupdf

from service.raster.pdf_engine import PdfDocument

FEWEST_WORDS, MOST_WORDS = 2, 4
_ATTEMPTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PdfPage:
    document: str
    number: int  # from 1
    pixels: np.ndarray  # uint8 (height, width, 3)
    words: frozenset[str]  # of three letters or more, in small letters


@dataclass(frozen=True, slots=True, kw_only=True)
class PdfQuestion:
    query: str
    pages: tuple[int, ...]  # places in the pages that it was dealt from
    right: int  # index into `pages`


def read_pages(paths: Sequence[Path]) -> list[PdfPage]:
    """All pages of some PDFs. Raises: RasterFailure."""
    return [page for path in paths for page in _read(path)]


def _read(path: Path) -> list[PdfPage]:
    data = path.read_bytes()
    rendered = PdfDocument(data)
    try:
        with pymupdf.open(stream=data, filetype="pdf") as document:
            return [
                PdfPage(
                    document=path.name,
                    number=number,
                    pixels=_render(rendered, number),
                    words=frozenset(re.findall("[a-z]{3,}", page.get_text().lower())),
                )
                for number, page in enumerate(document, start=1)
            ]
    finally:
        rendered.close()


def _render(document: PdfDocument, number: int) -> np.ndarray:
    page = document.render(number)
    return np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)


def deal_questions(
    pages: Sequence[PdfPage], *, count: int, candidates: int, seed: int, known: Collection[str] | None = None
) -> list[PdfQuestion]:
    """Queries of two, three and four words in turn, in the order of chance.

    known: the words to choose from; None: all. Raises: ValueError when the pages give too few.
    """
    chance = np.random.default_rng(seed)
    return [
        _deal(pages, FEWEST_WORDS + index % (MOST_WORDS - FEWEST_WORDS + 1), candidates, known, chance)
        for index in range(count)
    ]


def _deal(
    pages: Sequence[PdfPage],
    length: int,
    candidates: int,
    known: Collection[str] | None,
    chance: np.random.Generator,
) -> PdfQuestion:
    for _ in range(_ATTEMPTS):
        right = int(chance.integers(len(pages)))
        choice = sorted(word for word in pages[right].words if known is None or word in known)
        if len(choice) < length:
            continue
        query = [str(word) for word in chance.choice(choice, length, replace=False)]
        others = [
            int(place) for place in chance.permutation(len(pages)) if not pages[int(place)].words.issuperset(query)
        ][: candidates - 1]
        if len(others) == candidates - 1:
            order = [int(place) for place in chance.permutation([right, *others])]
            return PdfQuestion(query=" ".join(query), pages=tuple(order), right=order.index(right))
    raise ValueError(
        f"{len(pages)} pages give no query of {length} words on one of {candidates} pages in {_ATTEMPTS} attempts"
    )
