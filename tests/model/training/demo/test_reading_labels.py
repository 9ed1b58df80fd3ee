from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.training.demo.pages import (
    HEIGHT,
    HELD_OUT_LAYOUT,
    SEEN_LAYOUTS,
    WIDTH,
    DrawnPage,
    PlacedWord,
    Style,
    draw_page,
)
from model.training.demo.reading_labels import NO_WORD, STRANGE_WORD, Grid, label_page, spell
from tests.model.training.demo.worlds import small_style

GRID = Grid(rows=4, columns=4)  # a patch is WIDTH / 4 x HEIGHT / 4


def page(*placed: PlacedWord) -> DrawnPage:
    return DrawnPage(image=Image.new("L", (WIDTH, HEIGHT), 255), words=placed)


def word(text: str, place: int | None, *, rows: tuple[float, float], columns: tuple[float, float]) -> PlacedWord:
    """A word whose box is given in patches."""
    across, down = WIDTH / 4, HEIGHT / 4
    return PlacedWord(
        text=text, place=place, box=(columns[0] * across, rows[0] * down, columns[1] * across, rows[1] * down)
    )


def by_row(values: np.ndarray) -> list[list[int]]:
    """From merge-block order to rows."""
    return values.reshape(2, 2, 2, 2).swapaxes(1, 2).reshape(4, 4).tolist()


def test_a_patch_belongs_to_the_word_that_covers_most_of_it() -> None:
    labels = label_page(
        page(
            word("ab", 7, rows=(0, 1), columns=(0, 1.4)),
            word("cd", 9, rows=(0, 1), columns=(1.4, 3)),
        ),
        GRID,
    )
    blank = [NO_WORD] * 4
    assert by_row(labels.words) == [[7, 9, 9, NO_WORD], blank, blank, blank]


def test_a_word_that_only_touches_a_patch_is_not_its_word() -> None:
    labels = label_page(page(word("ab", 7, rows=(0, 1.1), columns=(0, 1))), GRID)
    assert by_row(labels.words)[1][0] == NO_WORD


def test_a_token_shares_its_print_among_its_words() -> None:
    labels = label_page(
        page(
            word("ab", 7, rows=(0, 1), columns=(0, 1.5)),
            word("cd", 9, rows=(0, 1), columns=(1.5, 2)),
            word("ef", 3, rows=(3, 4), columns=(2, 4)),
        ),
        GRID,
    )
    assert labels.token_words[:, :2].tolist() == [[7, 9], [-1, -1], [-1, -1], [3, -1]]
    assert labels.token_shares[0, :2].tolist() == pytest.approx([0.75, 0.25], abs=1e-3)


def test_letters_lie_where_they_are_drawn() -> None:
    labels = label_page(page(word("az", 7, rows=(1, 2), columns=(0, 2))), GRID)
    letters = labels.letters.reshape(2, 2, 2, 2, 26).swapaxes(1, 2).reshape(4, 4, 26)
    assert np.argwhere(letters).tolist() == [[1, 0, 0], [1, 1, 25]]


def test_spelling_counts_letters_from_one_and_ends_with_zeros() -> None:
    assert spell("bad9").tolist() == [2, 1, 4, 27, 0, 0, 0, 0, 0, 0]


def test_a_strange_word_has_a_spelling_and_no_token() -> None:
    labels = label_page(page(word("qx", None, rows=(0, 2), columns=(0, 2))), GRID)
    assert by_row(labels.words)[0][:2] == [STRANGE_WORD] * 2
    assert labels.spelling[0, :2].tolist() == [17, 24]
    assert (labels.token_words == NO_WORD).all()


def test_the_same_seed_draws_the_same_page(tmp_path: Path) -> None:
    style = small_style(tmp_path)
    first, second = draw_page(5, style), draw_page(5, style)
    assert first.words == second.words
    assert first.image.tobytes() == second.image.tobytes()
    assert draw_page(6, style).words != first.words


@pytest.mark.parametrize("layout", [*SEEN_LAYOUTS, HELD_OUT_LAYOUT])
def test_words_stand_where_their_boxes_say(layout: str, tmp_path: Path) -> None:
    style = small_style(tmp_path)
    drawn = draw_page(3, Style(fonts=style.fonts, layouts=(layout,)))
    pixels = np.asarray(drawn.image)
    paper = np.median(pixels)
    assert len(drawn.words) > 20
    for each in drawn.words:
        left, top, right, bottom = map(round, each.box)
        assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
        assert (pixels[top:bottom, left:right] < paper - 60).any(), each
