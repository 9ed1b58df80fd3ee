"""Recall at 1, 3 and 5 by domain, and its two averages. Knows orders of page ids, nothing of how they came about.

Source: MMDocIR (arXiv 2501.08828), page-level retrieval: the share of a question's ground-truth pages in the first k.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CUTS = (1, 3, 5)

_Recalls = dict[str, float]
"""By cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question's two orders, best first: the first stage's and the reranker's."""

    domain: str
    relevant: frozenset[str]
    first_stage: tuple[str, ...]
    reranked: tuple[str, ...]


def recall_at(cut: int, order: Sequence[str], relevant: frozenset[str]) -> float:
    """Share of the relevant pages among the first `cut`; below 1 wherever there are more relevant pages than that."""
    return len(relevant & set(order[:cut])) / len(relevant)


def summarise(answers: Sequence[Answer]) -> dict[str, Any]:
    """Recalls of at least one answer: by domain, macro (domains weigh the same), micro (questions weigh the same)."""
    by_domain: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_domain[answer.domain].append(answer)
    domains = {name: _group(group) for name, group in sorted(by_domain.items())}
    return {
        "domains": domains,
        "macro": {"questions": len(answers), **_averages(list(domains.values()))},
        "micro": _group(answers),
    }


def _group(answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "questions": len(answers),
        "first_stage": _mean_recalls([(answer.first_stage, answer.relevant) for answer in answers]),
        "reranked": _mean_recalls([(answer.reranked, answer.relevant) for answer in answers]),
    }


def _mean_recalls(orders: Sequence[tuple[tuple[str, ...], frozenset[str]]]) -> _Recalls:
    return {str(cut): statistics.fmean(recall_at(cut, order, relevant) for order, relevant in orders) for cut in CUTS}


def _averages(groups: Sequence[dict[str, Any]]) -> dict[str, _Recalls]:
    return {
        stage: {str(cut): statistics.fmean(group[stage][str(cut)] for group in groups) for cut in CUTS}
        for stage in ("first_stage", "reranked")
    }


def as_table(summary: dict[str, Any]) -> str:
    """Markdown, in percent: the reranker's recall, the first stage's behind it in brackets."""
    header = ["domain", "questions", *(f"recall@{cut}" for cut in CUTS)]
    rows = [*summary["domains"].items(), *((f"**{name}**", summary[name]) for name in ("macro", "micro"))]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *(_row(name, group) for name, group in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(name: str, group: dict[str, Any]) -> list[str]:
    recalls = (f"{100 * group['reranked'][str(cut)]:.1f} ({100 * group['first_stage'][str(cut)]:.1f})" for cut in CUTS)
    return [name, str(group["questions"]), *recalls]
