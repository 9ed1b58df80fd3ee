import pytest

from model.training.spending import Prices, Spending, Usage


def test_money_is_tokens_times_the_price_of_a_million() -> None:
    spending = Spending(Prices(prompt=0.25, completion=2.0))
    spending.add(Usage(prompt_tokens=100_000, completion_tokens=1_000))
    spending.add(Usage(prompt_tokens=300_000, completion_tokens=4_000))
    assert spending.money == pytest.approx(0.4 * 0.25 + 0.005 * 2.0)  # 0.11
    assert str(spending) == "400,000 tokens in, 5,000 out, cost 0.1100"


def test_without_prices_only_tokens_are_told() -> None:
    spending = Spending(None)
    spending.add(Usage(prompt_tokens=1_200, completion_tokens=40))
    assert spending.money is None
    assert str(spending) == "1,200 tokens in, 40 out"


def test_answers_without_a_count_are_told() -> None:
    spending = Spending(Prices(prompt=1.0, completion=1.0))
    spending.add(None)
    assert str(spending) == "0 tokens in, 0 out, cost 0.0000, not counting 1 answers without token counts"
