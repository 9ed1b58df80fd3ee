"""What labelling has cost so far: tokens, and money where prices are known.

Knows no currency: prices and sums are in the one that the user thinks in.
"""

from dataclasses import dataclass

_PRICED_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer, as the endpoint counted them."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money for a million tokens."""

    prompt: float
    completion: float


class Spending:
    """Adds up the usage of answers, the unusable ones too: they are paid for like the others."""

    def __init__(self, prices: Prices | None) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._prices = prices
        self._uncounted_answers = 0

    def add(self, usage: Usage | None) -> None:
        """None: the endpoint did not say."""
        if usage is None:
            self._uncounted_answers += 1
            return
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens

    @property
    def money(self) -> float | None:
        """None without prices."""
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
            parts.append(f"not counting {self._uncounted_answers} answers that came without their tokens")
        return ", ".join(parts)
