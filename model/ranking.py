"""Turns letter logits into an order and into scores in [0, 1]."""

import math
from collections.abc import Sequence


def order_by_score(scores: Sequence[float]) -> tuple[int, ...]:
    """Indices by descending score; equal scores keep the input order."""
    return tuple(sorted(range(len(scores)), key=lambda index: -scores[index]))


def softmax(logits: Sequence[float]) -> tuple[float, ...]:
    """Shares of the letters, which sum to 1. Comparable only within one prompt."""
    highest = max(logits)
    exponentials = [math.exp(logit - highest) for logit in logits]
    total = sum(exponentials)
    return tuple(value / total for value in exponentials)


def scores_by_rank(order: Sequence[int]) -> tuple[float, ...]:
    """(n - rank) / n for each page, rank from 0. For orders across prompts, whose logits are not comparable."""
    count = len(order)
    scores = [0.0] * count
    for rank, page in enumerate(order):
        scores[page] = (count - rank) / count
    return tuple(scores)
