"""The bundled checkpoint reads texts as they are drawn for it, in the fonts of any machine."""

import random

import numpy as np
import pytest

from model import Reranker, RerankerConfig
from model.pages.text_layout import TextPages
from model.training.demo.vocabulary import words
from tests.model.pages.fonts import installed, with_any_fonts

__all__ = ["installed"]

LISTS, TEXTS = 8, 8
FLOOR = 0.75
"""Seen: all of 24, in DejaVu Sans. By chance: 1 of 8."""


@pytest.fixture(scope="module")
def demo() -> Reranker:
    return Reranker.from_checkpoint("demo", RerankerConfig(device="cpu"))


@with_any_fonts
def test_the_text_with_the_words_of_the_query_comes_first(demo: Reranker) -> None:
    right = sum(_right_one_is_first(demo, random.Random(seed)) for seed in range(LISTS))
    assert right >= FLOOR * LISTS


def _right_one_is_first(demo: Reranker, chance: random.Random) -> bool:
    known = [word for word in words() if len(word) >= 4]
    texts = [chance.sample(known, chance.randint(3, 20)) for _ in range(TEXTS)]
    right = chance.randrange(TEXTS)
    pages = [np.array(TextPages(" ".join(text), most_pages=1, format=demo.text_page).draw(1)) for text in texts]
    return demo.rank(" ".join(texts[right][:3]), pages).order[0] == right
