"""How alike two orders of the same things are: Kendall's rank correlation."""

from collections.abc import Hashable, Sequence

import numpy as np


def kendall_tau(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """1 for the same order, -1 for the reverse: share of pairs in the same order minus share of the others."""
    place = {page: rank for rank, page in enumerate(second)}
    ranks = np.array([place[page] for page in first])
    signs = np.sign(ranks[None, :] - ranks[:, None])[np.triu_indices(len(ranks), k=1)]
    return float(signs.mean())
