"""What training minimises, one example at a time: two losses of the order of the pages, one of the written ranking.

All take float32 logits on any device and give a scalar. Knows neither pages nor prompts nor how the losses are weighted.
Source: arXiv 2605.11864, section on training; the formulas' own sources stand with each.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F

POSITION_DECAY = 0.5
"""Weight of a place in the order relative to the place before it (published)."""


def rank_net_loss(logits: torch.Tensor, ranking: Sequence[int]) -> torch.Tensor:
    """Mean over all pairs of pages, i ranked above j, of log(1 + exp(s_j - s_i)) / (rank_i + rank_j), ranks from 1.

    logits: (n,), s by page. ranking: pages, best first. A single page has no pair: zero.
    Source: RankNet (Burges et al. 2005, "Learning to Rank using Gradient Descent"): binary cross-entropy of
    sigmoid(s_i - s_j) with 1; the weight is that of FIRST (arXiv 2406.15657).
    """
    if len(ranking) < 2:
        return logits.sum() * 0
    ordered = logits[list(ranking)]
    above, below = torch.triu_indices(len(ranking), len(ranking), offset=1, device=logits.device)
    weights = 1 / (above + below + 2)
    loss: torch.Tensor = (weights * F.softplus(ordered[below] - ordered[above])).mean()
    return loss


def soft_ranking_loss(logits: torch.Tensor, ranking: Sequence[int], relevant: Collection[int]) -> torch.Tensor:
    """Cross-entropy of softmax(logits) against weights that halve from place to place: -Σ w_k log p(page at place k).

    w_k = 0.5^k / Σ 0.5^i, places k from 0 in the teacher's order, with the relevant pages moved to its front.
    logits: (n,). Source: arXiv 2605.11864 (soft ranking loss); ListNet (Cao et al. 2007) for the form.
    """
    order = relevant_first(ranking, relevant)
    weights = POSITION_DECAY ** torch.arange(len(order), device=logits.device, dtype=logits.dtype)
    return -(weights / weights.sum() * F.log_softmax(logits, dim=0)[order]).sum()


def relevant_first(ranking: Sequence[int], relevant: Collection[int]) -> list[int]:
    """The same pages, relevant ones before others, each kind in the order of `ranking`."""
    return sorted(ranking, key=lambda page: page not in relevant)


def next_token_loss(token_logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each position's logits (t, vocabulary) with the token that follows it, int64 (t,).

    Source: the usual language-modelling loss, here over the tokens of the written ranking alone.
    """
    return F.cross_entropy(token_logits.float(), token_ids)
