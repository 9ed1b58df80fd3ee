"""One request through the published path and through ours, lever by lever: where its time goes, and how far from the limit.

    python -m benchmarks.stage_latency --smoke       # seconds: do all arms run and agree?
    python -m benchmarks.stage_latency               # a card: the published 8B shape; a CPU: a small one, some minutes
    python -m benchmarks.stage_latency --keep-ratios 0.25 --arms R0 A4 A5

R0 is the published evaluation code's path, R1 the same without its avoidable faults, A0 to A6 are ours, one lever more each.
They share one set of random weights and take turns on the same pages. Wall time runs from decoded pages (PIL images of 1024 px,
480 px at the small shape) to logits on the host; for warm arms the pages have been seen before. First every arm must agree
with R0 to 1e-4 in float32 at four layers, else nothing is timed and the exit code is 1. Ends with one JSON document.
"""

import argparse
import copy
import gc
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import plots, results_file
from benchmarks.card import matrix_rate, monitor
from benchmarks.stage_latency.arms import REFERENCE, Arm, make_arms
from benchmarks.stage_latency.gate import GateError, check_exactness, check_rounding
from benchmarks.stage_latency.measurement import Effort, Series, inspect_arm, measure, step_count, summarise
from benchmarks.stage_latency.own_path import Work
from benchmarks.workloads import (
    LONGEST_EDGES,
    SHAPES,
    make_reranker,
    model_shape,
    multiply_adds,
    on_grid,
    random_network,
    random_pages,
    with_fewer_layers,
)
from model import Reranker, RerankerConfig
from model.device import Compute, choose_compute

QUERY = "What was the revenue of the third quarter, and which region grew fastest?"

_GATE_LAYERS = 4
_GATE_PAGES = 3


def main() -> None:
    options = _parse_options()
    config = _reranker_config(options)
    compute = choose_compute(config.device, config.dtype)
    try:
        gate = _pass_gate(options, config, compute)
    except GateError as error:
        raise SystemExit(f"{error} Nothing was timed.") from error
    results = {**_measure(options, config, compute), "gate": gate}
    if options.smoke:
        print(json.dumps(results))
        return
    name = options.output or f"stage_latency_{results_file.machine_name()}"
    results_file.write(name, results)
    plots.draw_stages(results, results_file.FOLDER / f"{name}.png")


def _parse_options() -> argparse.Namespace:
    on_card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape, pages, iterations = ("published", 20, 20) if on_card else ("small", 4, 10)
    parser.add_argument("--shape", choices=SHAPES, default=shape, help=f"of the network (default here: {shape})")
    parser.add_argument("--pages", type=int, default=pages, help=f"of the request, 1 to 20 (default here: {pages})")
    parser.add_argument("--keep-ratios", type=float, nargs="+", default=[1.0, 0.5, 0.25], help="(default: 1 0.5 0.25)")
    parser.add_argument("--arms", nargs="+", help="some of R0 R1 A0 … A6; R0 is always among them (default: all)")
    parser.add_argument(
        "--iterations", type=int, default=iterations, help=f"of each arm and keep ratio (default here: {iterations})"
    )
    parser.add_argument(
        "--warm-up-seconds", type=float, default=5.0, help="of each, at most; ends when times settle (default: 5)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dtype", default="auto", help="auto (float32 on a CPU, bfloat16 on a card), float32, bfloat16"
    )
    parser.add_argument("--attention", default="auto", help="kernel from A3 on: auto, flash-attn, torch-varlen or sdpa")
    parser.add_argument("--vision-attention", help="the same for the vision tower alone")
    parser.add_argument("--output", help="name of the files in benchmarks/results (default: by the device)")
    parser.add_argument("--smoke", action="store_true", help="one short iteration at the demo shape; nothing is kept")
    options = parser.parse_args()
    if options.smoke:
        options.shape, options.pages, options.iterations, options.keep_ratios = "demo", 2, 1, [1.0, 0.5]
        options.warm_up_seconds = 0.0
    return options


def _reranker_config(options: argparse.Namespace) -> RerankerConfig:
    return RerankerConfig(
        device=options.device,
        dtype=options.dtype,
        attention=options.attention,
        vision_attention=options.vision_attention,
    )


def _pass_gate(options: argparse.Namespace, config: RerankerConfig, compute: Compute) -> dict[str, Any]:
    """The arms at a few layers: in float32, and where they will be timed in less, in that too. Raises: GateError."""
    exact = replace(config, dtype="float32", attention="sdpa", vision_attention=None)
    model_config = with_fewer_layers(model_shape(options.shape), _GATE_LAYERS)
    network = random_network(model_config, choose_compute(exact.device, exact.dtype))
    arms = _chosen(make_arms(network, model_config, exact), options.arms)
    decoded = random_pages(min(options.pages, _GATE_PAGES), longest_edge=LONGEST_EDGES[options.shape])
    pages = [on_grid(page, model_config.image) for page in decoded]
    works = [Work(query=QUERY, pages=pages, keep_ratio=ratio) for ratio in options.keep_ratios]
    record: dict[str, Any] = {"float32": check_exactness(arms, works)}
    if compute.dtype != torch.float32:
        rounded = make_arms(copy.deepcopy(network).to(compute.dtype), model_config, config)
        distances = check_rounding(arms[REFERENCE], _chosen(rounded, options.arms), works[0])
        record["distance_from_float32"] = distances
    return record


def _chosen(arms: dict[str, Arm], names: Sequence[str] | None) -> dict[str, Arm]:
    unknown = set(names or ()) - set(arms)
    if unknown:
        print(f"not here: {', '.join(sorted(unknown))}", file=sys.stderr)
    return {name: arm for name, arm in arms.items() if names is None or name in (REFERENCE, *names)}


def _measure(options: argparse.Namespace, config: RerankerConfig, compute: Compute) -> dict[str, Any]:
    _free_memory()  # the gate's
    model_config = model_shape(options.shape)
    network = random_network(model_config, compute)
    arms = _chosen(make_arms(network, model_config, config), options.arms)
    pages = random_pages(options.pages, longest_edge=LONGEST_EDGES[options.shape])
    works = [Work(query=QUERY, pages=pages, keep_ratio=ratio) for ratio in options.keep_ratios]
    effort = Effort(iterations=options.iterations, warm_up_calls=30, warm_up_seconds=options.warm_up_seconds)
    before = _device_state(compute)
    with tqdm(total=step_count(arms, works, effort), unit="step") as progress:
        series = measure(arms, works, effort, compute, progress.update)
    after = _device_state(compute)
    rate = (before["matrix_tflops"] + after["matrix_tflops"]) / 2
    reranker = make_reranker(replace(config, attention="sdpa", vision_attention=None), model_config, network)
    return {
        "shape": options.shape,
        "dtype": compute.dtype_name,
        "pages": options.pages,
        "longest_edge": LONGEST_EDGES[options.shape],
        "from": "decoded pages (PIL, RGB) and a query",
        "to": "letter logits on the host",
        "iterations": options.iterations,
        "before": before,
        "after": after,
        "arms": {name: arm.adds for name, arm in arms.items()},
        "keep_ratios": [_results(work, arms, series, reranker, rate) for work in works],
    }


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device_state(compute: Compute) -> dict[str, Any]:
    return {"matrix_tflops": matrix_rate(compute), "monitor": monitor()}


def _results(
    work: Work, arms: Mapping[str, Arm], series: Mapping[tuple[str, float], Series], reranker: Reranker, rate: float
) -> dict[str, Any]:
    """Of one keep ratio."""
    request = reranker.prepare(work.query, work.pages, work.keep_ratio)
    patches = [page.visual_token_count * reranker.model_config.vision.merge_unit for page in request.pages]
    needed = multiply_adds(reranker.model_config, patches_by_page=patches, tokens=request.token_count)
    results = {
        name: summarise(
            series[name, work.keep_ratio],
            needed_flop=needed["language"] + (0 if arm.is_warm else needed["vision"]),
            matrix_tflops=rate,
        )
        | inspect_arm(arm, work, reranker.compute)
        for name, arm in arms.items()
    }
    return {
        "keep_ratio": work.keep_ratio,
        "tokens": request.token_count,
        "visual_tokens": {"before": request.visual_token_count, "after": request.kept_token_count},
        "patches": sum(patches),
        "arms": results,
        "reference_over_arm": _speed_ups(results),
    }


def _speed_ups(results: Mapping[str, Any]) -> dict[str, float]:
    """Wall time of the published path over that of each arm, by medians."""
    walls = {name: result["wall_ms"]["median"] for name, result in results.items()}
    return {name: round(walls[REFERENCE] / wall, 3) for name, wall in walls.items() if name != REFERENCE}


if __name__ == "__main__":
    main()
