"""Where the time of one request goes on the device, stage by stage, at the published 8B shape with random weights.

    python -m benchmarks.stage_latency                                   # on a card: 20 pages, keep ratios 1, 0.5, 0.25
    python -m benchmarks.stage_latency --shape demo --pages 2 --iterations 3 --device cpu     # a trial without one

Stages are measured with CUDA events (wall time on a CPU), keep ratios interleaved so that drift meets all of them; beside each
stage stands the share of the matrix rate that a plain 8192 x 8192 product reaches on the same card.
"""

import argparse
import statistics
import sys
import time
from typing import Any

import torch

from benchmarks import results_file
from benchmarks.workloads import multiply_adds, random_pages, random_reranker
from model import PreparedRequest, Reranker, RerankerConfig
from model.device import choose_compute

QUERY = "What was the revenue of the third quarter, and which region grew fastest?"
WARM_UP_ITERATIONS = 5


def main() -> None:
    options = _parse_options()
    config = RerankerConfig(
        device=options.device,
        dtype=options.dtype,
        attention=options.attention,
        vision_attention=options.vision_attention,
    )
    if options.shape == "published" and choose_compute(options.device, options.dtype).device.type == "cpu":
        raise SystemExit("The published 8B shape needs a CUDA device. For a trial: --shape demo --device cpu")
    reranker = random_reranker(options.shape, config)
    before = matrix_rate(reranker)
    pages = list(random_pages(options.pages))
    requests = {ratio: reranker.prepare(QUERY, pages, ratio) for ratio in options.keep_ratios}
    measured = measure(reranker, requests, options.iterations)
    arms = [summary(reranker, request, measured[ratio], before) for ratio, request in requests.items()]
    results_file.write(
        options.output,
        {
            "shape": options.shape,
            "dtype": reranker.compute.dtype_name,
            "attention": {"vision": reranker.vision_attention.name, "text": reranker.text_attention.name},
            "pages": options.pages,
            "iterations": options.iterations,
            "matrix_tflops": {"before": before, "after": matrix_rate(reranker)},
            "memory_bytes": reranker.device_memory(),
            "arms": [{"keep_ratio": ratio, **arm} for ratio, arm in zip(requests, arms, strict=True)],
        },
    )


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("published", "demo"), default="published")
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--keep-ratios", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--vision-attention", default=None)
    parser.add_argument("--output", default="stage_latency", help="name of the file in benchmarks/results")
    return parser.parse_args()


def measure(
    reranker: Reranker, requests: dict[float, PreparedRequest], iterations: int
) -> dict[float, list[dict[str, float]]]:
    """Milliseconds by stage, and of the whole call, of every iteration."""
    measured: dict[float, list[dict[str, float]]] = {ratio: [] for ratio in requests}
    for iteration in range(-WARM_UP_ITERATIONS, iterations):
        for ratio, request in requests.items():
            clock = reranker.stage_clock()
            started = time.perf_counter()
            reranker.score([request], observe=clock.observe)
            total = time.perf_counter() - started
            if iteration >= 0:
                stages = {stage: seconds * 1000 for stage, seconds in clock.seconds().items()}
                measured[ratio].append({**stages, "total": total * 1000})
        print(f"iteration {iteration + 1} of {iterations}", file=sys.stderr)
    return measured


def summary(
    reranker: Reranker, request: PreparedRequest, iterations: list[dict[str, float]], matrix_tflops: float
) -> dict[str, Any]:
    merge_unit = reranker.model_config.vision.merge_unit
    patches = [page.visual_token_count * merge_unit for page in request.pages]
    needed = multiply_adds(reranker.model_config, patches_by_page=patches, tokens=request.token_count)
    stages: dict[str, dict[str, float]] = {}
    for stage in iterations[0]:
        values = sorted(iteration[stage] for iteration in iterations)
        stages[stage] = {
            "median_ms": round(statistics.median(values), 3),
            "min_ms": round(values[0], 3),
            "p90_ms": round(values[int(0.9 * (len(values) - 1))], 3),
        }
        if stage in needed:
            tflops = needed[stage] / stages[stage]["median_ms"] / 1e9
            stages[stage] |= {"tflops": round(tflops, 3), "of_matrix_rate": round(tflops / matrix_tflops, 3)}
    return {"tokens": request.token_count, "patches": sum(patches), "stages": stages}


def matrix_rate(reranker: Reranker) -> float:
    """TFLOP/s of a plain square product of normal random numbers in the model's dtype."""
    compute = reranker.compute
    on_card = compute.device.type == "cuda"
    size = 8192 if on_card else 1024
    a, b = (torch.randn(size, size, device=compute.device, dtype=compute.dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    clock = reranker.stage_clock()
    with clock.observe("product"):
        for _ in range(10):
            a @ b
    return round(10 * 2 * size**3 / clock.seconds()["product"] / 1e12, 3)


if __name__ == "__main__":
    main()
