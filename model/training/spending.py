"""Adds up the cost of labelling in tokens, and in money if prices are given.

Sums are in the currency of the prices, which the user chooses.
"""

from dataclasses import dataclass

_PRICED_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The tokens of one request and its answer, as counted by the endpoint."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of a million tokens, in any currency."""

    prompt: float
    completion: float


class Spending:
    """The total usage of all answers, including unusable ones, which cost the same."""

    def __init__(self, prices: Prices | None) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._prices = prices
        self._uncounted_answers = 0

    def add(self, usage: Usage | None) -> None:
        """Add the usage of one answer; None if the endpoint did not report it."""
        if usage is None:
            self._uncounted_answers += 1
            return
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens

    @property
    def money(self) -> float | None:
        """The cost so far; None without prices."""
        if self._prices is None:
            return None
        priced = self.prompt_tokens * self._prices.prompt + self.completion_tokens * self._prices.completion
        return priced / _PRICED_TOKENS

    def __str__(self) -> str:
        """`1,200 tokens in, 40 out, cost 0.0013`."""
        parts = [f"{self.prompt_tokens:,} tokens in", f"{self.completion_tokens:,} out"]
        if self.money is not None:
            parts.append(f"cost {self.money:.4f}")
        if self._uncounted_answers:
            parts.append(f"not counting {self._uncounted_answers} answers without token counts")
        return ", ".join(parts)
