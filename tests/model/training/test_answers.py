import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.training.answers import continue_answer, parse_ranking, write_ranking
from model.training.errors import TeacherError


def test_letters_are_places_among_the_candidates() -> None:
    assert parse_ranking("[C] > [A] > [B]", 3) == (2, 0, 1)


@pytest.mark.parametrize("text", ["[B]>[A]", " [B] > [A].\n", "[B]\n>\t[A]", "[B] > [A] ."])
def test_white_space_and_one_full_stop_are_tolerated(text: str) -> None:
    assert parse_ranking(text, 2) == (1, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[A] > [A]", "repeats A and leaves out B"),
        ("[B]", "leaves out A; it must name each of 2 pages once"),
        ("[A] > [B] > [C]", "names without a page C"),
        ("", "'' is no identifier"),
        ("A > B", "'A' is no identifier"),
        ("[a] > [b]", "'[a]' is no identifier"),
        ("[2] > [1]", "'[2]' is no identifier"),
        ("[A] > [U]", "'[U]' is no identifier"),
        ("[A] > [B]..", "'[B].' is no identifier"),
        ("[A] = [B]", "'[A] = [B]' is no identifier"),
        ("[A] > [B] >", "'' is no identifier"),
        ("The ranking is: [A] > [B]", "'The ranking is: [A]' is no identifier"),
        ("[A] > [B]\n\nPage A tells it.", "no identifier"),
        ("[ A ] > [B]", "'[ A ]' is no identifier"),
        ("[Ａ] > [B]", "no identifier"),
    ],
)
def test_anything_else_is_refused_and_told(text: str, said: str) -> None:
    with pytest.raises(TeacherError) as error:
        parse_ranking(text, 2)
    assert said in str(error.value)


def test_a_long_answer_is_told_by_its_beginning() -> None:
    with pytest.raises(TeacherError) as error:
        parse_ranking("because " * 10_000, 2)
    assert len(str(error.value)) < 300


@given(st.integers(1, 20).flatmap(lambda count: st.permutations(range(count))))
def test_what_is_written_is_read(ranking: list[int]) -> None:
    assert parse_ranking(write_ranking(ranking), len(ranking)) == tuple(ranking)


def test_an_answer_goes_on_after_the_opening_bracket_of_the_prompt() -> None:
    assert write_ranking((2, 0, 19)) == "[C] > [A] > [T]"
    assert continue_answer((2, 0, 19)) == "C] > [A] > [T]"
