"""Outcomes to figures: latencies, where they were spent, refusals, and how much of the load was served in time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.distribution import percentile
from benchmarks.http_load.client import Outcome

SLOS_MS = (150, 300, 600, 1000)
"""Service level objectives: the time within which an answer is of use."""

SHARES = (0.95, 0.99)

_COMPUTE_STAGES = ("upload", "vision", "compress", "pack", "language")
_WAITING_STAGES = ("queue",)


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of one run of at least one request."""
    seconds = max(outcome.finished for outcome in outcomes)
    answered = [outcome for outcome in outcomes if outcome.is_answered]
    return {
        "requests": len(outcomes),
        "answered": len(answered),
        "answered_per_second": round(len(answered) / seconds, 3),
        "latency_ms": _quantiles([outcome.latency * 1000 for outcome in answered]),
        "split_ms": split(answered),
        "refused": dict(Counter(outcome.reply.code for outcome in outcomes if not outcome.is_answered)),
        "goodput_per_second": {str(slo): round(goodput(outcomes, slo), 3) for slo in SLOS_MS},
        "share_in_time": {str(slo): round(share_in_time(outcomes, slo), 4) for slo in SLOS_MS},
    }


def split(answered: Sequence[Outcome]) -> dict[str, dict[str, float | None]]:
    """By the service's own clock: waiting for a batch, computing on the device, and the host's work around both."""
    parts: dict[str, list[float]] = {"queue": [], "compute": [], "host": []}
    for outcome in answered:
        stages = outcome.reply.timings_ms
        queue, compute = (_sum(stages, names) for names in (_WAITING_STAGES, _COMPUTE_STAGES))
        parts["queue"].append(queue)
        parts["compute"].append(compute)
        parts["host"].append(stages["total"] - queue - compute)
    return {part: _quantiles(values) for part, values in parts.items()}


def _sum(stages: Mapping[str, float], names: Sequence[str]) -> float:
    return sum(stages.get(name, 0.0) for name in names)


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    return {f"p{percent}": round(percentile(values, percent), 1) if values else None for percent in (50, 95, 99)}


def goodput(outcomes: Sequence[Outcome], slo_ms: float) -> float:
    """Answers within `slo_ms`, a second of the run."""
    return _in_time(outcomes, slo_ms) / max(outcome.finished for outcome in outcomes)


def share_in_time(outcomes: Sequence[Outcome], slo_ms: float) -> float:
    """Of all requests that came, the share answered within `slo_ms`: a refusal is not in time."""
    return _in_time(outcomes, slo_ms) / len(outcomes)


def _in_time(outcomes: Sequence[Outcome], slo_ms: float) -> int:
    return sum(outcome.is_answered and outcome.latency * 1000 <= slo_ms for outcome in outcomes)


def highest_rates(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """By objective and share: the highest rate of arrivals at which that share of the requests was answered in time.

    A rate counts only where every lower one held too: a lucky run above a failed one is no promise.
    """
    return {
        str(slo): {f"{share:.0%}": highest_rate(runs, slo_ms=slo, share=share) for share in SHARES} for slo in SLOS_MS
    }


def highest_rate(runs: Sequence[Mapping[str, Any]], *, slo_ms: int, share: float) -> float | None:
    """None where no rate held."""
    highest = None
    for run in sorted(runs, key=lambda run: float(run["rate_per_second"])):
        if run["share_in_time"][str(slo_ms)] < share:
            break
        highest = float(run["rate_per_second"])
    return highest


def hit_rates(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float | None]:
    """By cache, hits over look-ups between two readings of /metrics; None where nothing was looked up."""
    return {cache: _hit_rate(cache, before, after) for cache in ("image", "vision")}


def _hit_rate(cache: str, before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    hits, misses = (
        after.get(series, 0.0) - before.get(series, 0.0)
        for series in (f'ziprerank_cache_{kind}_total{{cache="{cache}"}}' for kind in ("hits", "misses"))
    )
    return round(hits / (hits + misses), 4) if hits + misses else None
