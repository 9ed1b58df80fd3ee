import pytest
import torch
from torch import nn

from model.training.demo.optimiser import LearningRates, Optimiser


def test_the_learning_rate_rises_stays_and_falls() -> None:
    optimiser = Optimiser([nn.Linear(4, 4)], LearningRates(), steps=1000)
    shares = [optimiser.share(step) for step in (0, 24, 49, 600, 800, 1000)]
    assert shares == pytest.approx([0.02, 0.5, 1, 1, 0.525, 0.05])


def test_matrices_move_by_muon_and_tables_by_adamw() -> None:
    table, matrix = nn.Embedding(3, 4), nn.Linear(4, 4)
    optimiser = Optimiser([table, matrix], LearningRates(), steps=10)
    muon, adamw = optimiser.state_dict()
    assert [len(group["params"]) for group in muon["param_groups"]] == [1]
    assert [len(group["params"]) for group in adamw["param_groups"]] == [2]  # the table and the bias
    before = matrix.weight.detach().clone()
    optimiser.step(matrix(table(torch.tensor([0]))).sum(), 9)
    assert not torch.equal(before, matrix.weight)
