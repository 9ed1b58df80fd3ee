import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.compressor import PageShare, kept_count, select_tokens, text_similarity


def share(visual_tokens: int, kept: int) -> PageShare:
    return PageShare(visual_tokens=visual_tokens, kept=kept)


def test_the_most_similar_tokens_stay_in_their_order() -> None:
    similarity = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.5])
    assert select_tokens(similarity, [share(5, 3)]).tolist() == [1, 3, 4]


def test_each_page_keeps_its_own_share() -> None:
    similarity = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.8, 0.7])
    assert select_tokens(similarity, [share(3, 1), share(3, 2)]).tolist() == [2, 3, 4]


def test_ties_go_to_the_lower_index() -> None:
    assert select_tokens(torch.full((200,), 0.5), [share(200, 3)]).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("tokens", "ratio", "expected"), [(140, 0.5, 70), (5, 0.5, 2), (7, 0.5, 4), (3, 0.01, 1), (140, 1.0, 140)]
)
def test_kept_count_rounds_as_python_does_and_keeps_at_least_one(tokens: int, ratio: float, expected: int) -> None:
    assert kept_count(tokens, ratio) == expected


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 1)), min_size=1, max_size=5), st.integers(0, 2**31))
def test_selection_is_by_page_what_sorting_gives(pages: list[tuple[int, float]], seed: int) -> None:
    shares = [share(tokens, kept_count(tokens, ratio)) for tokens, ratio in pages]
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, 5, (sum(tokens for tokens, _ in pages),), generator=generator) / 5  # many ties
    expected: list[int] = []
    start = 0
    for page in shares:
        values = similarity[start : start + page.visual_tokens].tolist()
        best = sorted(enumerate(values), key=lambda indexed: (-indexed[1], indexed[0]))[: page.kept]
        expected += [start + index for index in sorted(index for index, _ in best)]
        start += page.visual_tokens
    assert select_tokens(similarity, shares).tolist() == expected


def test_similarity_is_the_cosine_with_the_closest_text_token() -> None:
    visual = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, -3.0]])
    text = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    assert text_similarity(visual, text).tolist() == pytest.approx([1.0, 0.5**0.5, 0.0])


def test_similarity_is_float32_whatever_the_dtype() -> None:
    assert text_similarity(torch.ones(2, 4).bfloat16(), torch.ones(3, 4).bfloat16()).dtype == torch.float32
