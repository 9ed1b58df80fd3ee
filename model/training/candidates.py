"""The candidates of an example: opened, or a part of them, or in another order. Knows neither prompts nor the network."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from model.training.errors import DataError
from model.training.examples import RankingExample


def open_pages(example: RankingExample) -> list[Image.Image]:
    """The page images. Raises: DataError, which names the page."""
    pages = []
    for page_id, open_page in zip(example.page_ids, example.pages, strict=True):
        try:
            pages.append(open_page())
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for broken images
            kind = type(error).__name__
            raise DataError(f"Example {example.id}: page {page_id} cannot be opened ({kind}).") from error
    return pages


def take_candidates(example: RankingExample, places: Sequence[int]) -> RankingExample:
    """The example with the candidates at `places`, in that order; the teacher's order and the relevant pages follow them."""
    new_place = {place: index for index, place in enumerate(places)}
    return replace(
        example,
        pages=tuple(example.pages[place] for place in places),
        page_ids=tuple(example.page_ids[place] for place in places),
        ranking=tuple(new_place[place] for place in example.ranking if place in new_place),
        relevant=frozenset(new_place[place] for place in example.relevant if place in new_place),
    )
