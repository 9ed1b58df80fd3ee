"""The bundled checkpoint reads the print of texts as `text_layout` draws them, in the fonts of any machine.

It tells the places of pages in a list apart on sheets of 640 px only, the size that it was trained on: on the squares alone its
order was at chance (1 of 20 lists of eight). So each square lies on such a sheet here.
"""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from model import Reranker, RerankerConfig
from model.pages.text_layout import TextPages
from model.training.demo.vocabulary import words
from tests.model.pages.fonts import installed, with_any_fonts

__all__ = ["installed"]

SHEET = (464, 656)
LISTS, TEXTS = 8, 8
FLOOR = 0.75
"""Seen: all 8, in DejaVu Sans, in Noto Sans and in Pillow's own font. By chance: 1 of 8."""


@pytest.fixture(scope="module")
def demo() -> Reranker:
    return Reranker.from_checkpoint("demo", RerankerConfig(device="cpu"))


@with_any_fonts
def test_the_text_with_the_words_of_the_query_comes_first(demo: Reranker) -> None:
    right = sum(_right_one_is_first(demo, random.Random(seed)) for seed in range(LISTS))
    assert right >= FLOOR * LISTS


def _right_one_is_first(demo: Reranker, chance: random.Random) -> bool:
    known = [word for word in words() if len(word) >= 4]
    texts = [chance.sample(known, chance.randint(10, 20)) for _ in range(TEXTS)]
    right = chance.randrange(TEXTS)
    start = chance.randrange(len(texts[right]) - 2)
    return demo.rank(" ".join(texts[right][start : start + 3]), [_sheet(text) for text in texts]).order[0] == right


def _sheet(text: Sequence[str]) -> np.ndarray:
    sheet = Image.new("RGB", SHEET, "white")
    square = TextPages(" ".join(text), most_pages=1).draw(1)
    assert square.size == (280, 280)
    sheet.paste(square, (20, 20))
    return np.asarray(sheet)
