"""Functions on the candidates of an example: open their images, or select and reorder them."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from model.training.errors import DataError
from model.training.examples import RankingExample


def open_pages(example: RankingExample) -> list[Image.Image]:
    """The images of all candidates. Raises: DataError, which names the page."""
    pages = []
    for page_id, open_page in zip(example.page_ids, example.pages, strict=True):
        try:
            pages.append(open_page())
        except (OSError, ValueError, SyntaxError) as error:  # raised by Pillow for broken images
            kind = type(error).__name__
            raise DataError(f"Example {example.id}: page {page_id} cannot be opened ({kind}).") from error
    return pages


def take_candidates(example: RankingExample, places: Sequence[int]) -> RankingExample:
    """The example with only the candidates at `places`, in that order; its ranking and relevant pages are mapped to them."""
    new_place = {place: index for index, place in enumerate(places)}
    return replace(
        example,
        pages=tuple(example.pages[place] for place in places),
        page_ids=tuple(example.page_ids[place] for place in places),
        ranking=tuple(new_place[place] for place in example.ranking if place in new_place),
        relevant=frozenset(new_place[place] for place in example.relevant if place in new_place),
    )
