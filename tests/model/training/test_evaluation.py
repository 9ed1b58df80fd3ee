import pytest

from model import Reranker
from model.training.evaluation import evaluate, recall_at, recalls
from tests.model.training.tiny import make_example


@pytest.mark.parametrize(("k", "recall"), [(1, 0.5), (2, 0.5), (3, 1.0), (5, 1.0)])
def test_recall_is_the_share_of_relevant_pages_among_the_first(k: int, recall: float) -> None:
    assert recall_at((4, 0, 2, 1, 3), {2, 4}, k) == recall


def test_without_ground_truth_the_teacher_s_first_page_is_relevant() -> None:
    example = make_example((20, 230, 90))
    assert recalls((0, 1, 2), example) == {1: 0.0, 3: 1.0, 5: 1.0}
    assert recalls((0, 1, 2), make_example((20, 230, 90), relevant=frozenset({0, 2}))) == {1: 0.5, 3: 1.0, 5: 1.0}


def test_a_reranker_is_evaluated_on_examples(reranker: Reranker) -> None:
    examples = [make_example((20, 230)), make_example((230, 20))]
    orders = [reranker.rank(e.query, [open_page() for open_page in e.pages]).order for e in examples]
    right = sum(order == e.ranking for order, e in zip(orders, examples, strict=True))
    assert evaluate(reranker, examples) == {"recall@1": right / 2, "recall@3": 1.0, "recall@5": 1.0}


def test_no_examples_give_no_numbers(reranker: Reranker) -> None:
    assert evaluate(reranker, []) == {}
