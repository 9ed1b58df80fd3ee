from dataclasses import replace

import pytest
from PIL import Image

from model.training.candidates import open_pages, take_candidates
from model.training.errors import DataError
from tests.model.training.tiny import make_example


def test_rankings_and_relevant_pages_follow_the_candidates_that_are_taken() -> None:
    example = make_example((20, 230, 90, 160), relevant=frozenset({0, 3}))  # ranked 1, 3, 2, 0
    taken = take_candidates(example, (3, 0, 2))
    assert taken.page_ids == ("160", "20", "90")
    assert (taken.ranking, taken.relevant) == ((0, 2, 1), frozenset({0, 1}))
    assert [page().getpixel((0, 0)) for page in taken.pages] == [(160,) * 3, (20,) * 3, (90,) * 3]


def test_a_page_that_cannot_be_opened_is_named() -> None:
    def open_broken() -> Image.Image:
        raise OSError("image file is truncated")

    example = make_example((20, 230), id="DUDE/7")
    with pytest.raises(DataError, match="DUDE/7: page 230 cannot be opened"):
        open_pages(replace(example, pages=(example.pages[0], open_broken)))
