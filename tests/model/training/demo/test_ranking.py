import numpy as np
import pytest
import torch
from torch import nn

from model.training.demo.optimiser import LearningRates, Optimiser
from model.training.demo.page_pool import PagePool
from model.training.demo.ranking import ListShape, deal_list
from model.training.demo.reading_labels import ReadingLabels


def pool(*known: set[int]) -> PagePool:
    empty = np.zeros((len(known), 1))
    labels = ReadingLabels(words=empty, spelling=empty, letters=empty, token_words=empty, token_shares=empty)
    return PagePool(
        pixels=np.zeros((len(known), 32, 32), np.uint8), labels=labels, known_words=tuple(map(frozenset, known))
    )


def test_only_the_right_page_has_all_words_of_the_query():
    pages = pool(*[{number, number + 1, number + 2, 99} for number in range(30)])
    for seed in range(50):
        dealt = deal_list(ListShape(pages=10, query_words=2, keep_ratio=1), pages, np.random.default_rng(seed))
        have_all = [index for index, page in enumerate(dealt.pages) if set(dealt.query) <= pages.known_words[page]]
        assert have_all == [dealt.right]
        assert len(set(dealt.pages)) == 10


def test_a_page_with_too_few_words_is_never_the_right_one():
    pages = pool({1}, {2, 3, 4}, set(), {5})
    for seed in range(20):
        dealt = deal_list(ListShape(pages=3, query_words=3, keep_ratio=1), pages, np.random.default_rng(seed))
        assert dealt.pages[dealt.right] == 1


def test_the_learning_rate_rises_stays_and_falls():
    optimiser = Optimiser([nn.Linear(4, 4)], LearningRates(), steps=1000)
    shares = [optimiser.share(step) for step in (0, 24, 49, 600, 800, 1000)]
    assert shares == pytest.approx([0.02, 0.5, 1, 1, 0.525, 0.05])


def test_matrices_move_by_muon_and_tables_by_adamw():
    table, matrix = nn.Embedding(3, 4), nn.Linear(4, 4)
    optimiser = Optimiser([table, matrix], LearningRates(), steps=10)
    muon, adamw = optimiser.state_dict()
    assert [len(group["params"]) for group in muon["param_groups"]] == [1]
    assert [len(group["params"]) for group in adamw["param_groups"]] == [2]  # the table and the bias
    before = matrix.weight.detach().clone()
    optimiser.step(matrix(table(torch.tensor([0]))).sum(), 9)
    assert not torch.equal(before, matrix.weight)
