"""Plots of kept results, as PNG files. Each takes the `results` of a record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # no window, no display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_SIZE_INCHES = (11, 4.2)
_DOTS_PER_INCH = 110


def draw_load(results: Mapping[str, Any], path: Path) -> None:
    """Latency and goodput over the rate of arrivals."""
    figure, (left, right) = plt.subplots(1, 2, figsize=_SIZE_INCHES, layout="constrained")
    steps = results["open_loop"]
    rates = [step["rate_per_second"] for step in steps]
    _draw_latency(left, rates, steps)
    _draw_goodput(right, rates, steps)
    for axes in (left, right):
        axes.axvline(results["saturation_per_second"], color="grey", linestyle=":", label="saturation")
        axes.set_xlabel("arrivals a second")
        axes.set_ylim(bottom=0)
        axes.legend()
    workload = results["workload"]
    figure.suptitle(f"{workload['pages']} pages a request ({workload['send']}), keep ratio {workload['keep_ratio']:g}")
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    plt.close(figure)


def _draw_latency(axes: Axes, rates: Sequence[float], steps: Sequence[Mapping[str, Any]]) -> None:
    for name in ("p50", "p95", "p99"):
        axes.plot(rates, [step["latency_ms"][name] for step in steps], marker="o", label=name)
    axes.set_ylabel("ms from the due time to the answer")


def _draw_goodput(axes: Axes, rates: Sequence[float], steps: Sequence[Mapping[str, Any]]) -> None:
    for slo in steps[0]["goodput_per_second"]:
        axes.plot(rates, [step["goodput_per_second"][slo] for step in steps], marker="o", label=f"within {slo} ms")
    axes.set_ylabel("answers in time, a second")


def draw_stages(results: Mapping[str, Any], path: Path) -> None:
    """Where the time of every arm goes: one bar an arm, one panel a keep ratio."""
    figure, panels = plt.subplots(
        1, len(results["keep_ratios"]), figsize=_SIZE_INCHES, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, part in zip(panels[0], results["keep_ratios"], strict=True):
        _draw_arms(axes, part["arms"])
        axes.set_title(f"keep ratio {part['keep_ratio']:g}")
    panels[0][0].set_ylabel("ms, median")
    handles = {
        label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    plt.close(figure)


def _draw_arms(axes: Axes, arms: Mapping[str, Any]) -> None:
    stages = list(dict.fromkeys(stage for arm in arms.values() for stage in arm["stages_ms"]))
    bottoms = dict.fromkeys(arms, 0.0)
    for index, stage in enumerate(stages):
        heights = [arm["stages_ms"].get(stage, {"median": 0.0})["median"] for arm in arms.values()]
        axes.bar(list(arms), heights, bottom=list(bottoms.values()), label=stage, color=f"C{index}")
        for name, height in zip(arms, heights, strict=True):
            bottoms[name] += height


def draw_compression(results: Mapping[str, Any], path: Path) -> None:
    """Recall and agreement, and latency, over the keep ratio."""
    figure, (left, right) = plt.subplots(1, 2, figsize=_SIZE_INCHES, layout="constrained")
    rows = results["ratios"]
    ratios = [row["keep_ratio"] for row in rows]
    for cut in rows[0]["recall"]:
        left.plot(ratios, [row["recall"][cut] for row in rows], marker="o", label=f"recall@{cut}")
    left.plot(
        ratios, [row["kendall_tau"] for row in rows], marker="x", linestyle=":", label="Kendall's tau with ratio 1"
    )
    left.legend()
    right.plot(ratios, [row["latency_ms"] for row in rows], marker="o")
    right.set_ylabel("ms a question, median")
    for axes in (left, right):
        axes.set_xlabel("keep ratio")
        axes.set_ylim(bottom=0)
    figure.suptitle(f"{results['model']} on {results['set']}: {results['pages']:g} pages a question")
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    plt.close(figure)


def draw_soak(results: Mapping[str, Any], path: Path) -> None:
    """Memory and handles, and latency of the good requests, over the time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=_SIZE_INCHES, layout="constrained")
    readings, pieces = results["readings"], results["latencies_ms"]
    seconds = [reading["seconds"] for reading in readings]
    left.plot(seconds, [reading["resident_mebibytes"] for reading in readings], label="resident, MiB")
    for name in ("handles", "threads"):
        left.plot(seconds, [reading[name] for reading in readings], linestyle=":", label=name)
    for name in ("p50", "p99"):
        right.plot([piece["seconds"] for piece in pieces], [piece[name] for piece in pieces], marker="o", label=name)
    right.set_ylabel("ms from the due time to the answer")
    for axes in (left, right):
        axes.set_xlabel("seconds")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.suptitle(f"{results['arrivals_per_second']:.1f} requests a second, a tenth of them hostile")
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    plt.close(figure)
