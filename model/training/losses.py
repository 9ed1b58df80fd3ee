"""The losses of one example: two for the order of the pages, one for the tokens of the written ranking.

All take float32 logits on any device and return a scalar. `objective` weights them.
Source: arXiv 2605.11864, section on training; each function names the source of its formula.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F

POSITION_DECAY = 0.5
"""The weight of each place in the order, relative to the place before it (published)."""


def rank_net_loss(logits: torch.Tensor, ranking: Sequence[int]) -> torch.Tensor:
    """Mean over all pairs of pages, i ranked above j, of log(1 + exp(s_j - s_i)) / (rank_i + rank_j), ranks from 1.

    logits: (n,), the score s of each page. ranking: pages, best first. The loss of a single page is 0.
    Source: RankNet (Burges et al. 2005, "Learning to Rank using Gradient Descent"): binary cross-entropy of
    sigmoid(s_i - s_j) with target 1; weights from FIRST (arXiv 2406.15657).
    """
    if len(ranking) < 2:
        return logits.sum() * 0
    ordered = logits[list(ranking)]  # (n,), best first
    above, below = torch.triu_indices(len(ranking), len(ranking), offset=1, device=logits.device)
    # `above`, `below`: (n (n - 1) / 2,), the places of each pair from 0; hence the 2
    weights = 1 / (above + below + 2)
    loss: torch.Tensor = (weights * F.softplus(ordered[below] - ordered[above])).mean()
    return loss


def soft_ranking_loss(logits: torch.Tensor, ranking: Sequence[int], relevant: Collection[int]) -> torch.Tensor:
    """Cross-entropy of softmax(logits) with weights that halve at each place: -Σ w_k log p(page at place k).

    w_k = 0.5^k / Σ 0.5^i, places k from 0 in the teacher's order, with the relevant pages moved to its front.
    logits: (n,). Source: arXiv 2605.11864 (soft ranking loss); ListNet (Cao et al. 2007) for the form.
    """
    order = relevant_first(ranking, relevant)
    weights = POSITION_DECAY ** torch.arange(len(order), device=logits.device, dtype=logits.dtype)  # (n,)
    return -(weights / weights.sum() * F.log_softmax(logits, dim=0)[order]).sum()


def relevant_first(ranking: Sequence[int], relevant: Collection[int]) -> list[int]:
    """The pages of `ranking` with the relevant ones moved to the front; otherwise in the same order."""
    return sorted(ranking, key=lambda page: page not in relevant)


def next_token_loss(token_logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the logits (t, vocabulary) at each position with the token that follows it, int64 (t,).

    The usual language-modelling loss, over the tokens of the written ranking only.
    """
    return F.cross_entropy(token_logits.float(), token_ids)
