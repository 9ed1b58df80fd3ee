"""Eight short measurements to make first on a new card: each replaces a prediction that the design rests on.

    python -m benchmarks.micro_checks            # a card: under four minutes; a CPU: tiny sizes, a trial of the code

1 attention kernels, 2 matrix products, 3 patch embedding as convolution and as product, 4 single values read from the device,
5 copies to the device, 6 resizing on the device, 7 eager and compiled layers, 8 the published path and ours from end to end. A
check that fails reports its error, and the others still run. Ends with one JSON document, kept under benchmarks/results.
"""

import argparse
import json
from typing import Any

from tqdm import tqdm

from benchmarks import results_file
from benchmarks.card import matrix_rate, monitor
from benchmarks.micro_checks.check import ON_CARD, ON_CPU, Check, Sizes, run_check
from benchmarks.micro_checks.host import check_copies, check_resize, check_single_values
from benchmarks.micro_checks.kernels import (
    NEW_LENGTHS_FLAG,
    check_attention,
    check_compiled_layers,
    check_matrix_products,
    check_patch_embedding,
    time_new_lengths,
)
from benchmarks.stage_latency.arms import make_arms
from benchmarks.stage_latency.measurement import Effort, measure
from benchmarks.stage_latency.own_path import Work
from benchmarks.workloads import LONGEST_EDGES, random_network, random_pages
from model import RerankerConfig
from model.device import Compute, choose_compute


def main() -> None:
    options = _parse_options()
    if options.new_lengths:
        print(json.dumps(time_new_lengths()))
        return
    compute = choose_compute(options.device, "auto")
    sizes = ON_CARD if compute.device.type == "cuda" else ON_CPU
    results = {"shape": sizes.shape, "matrix_tflops": matrix_rate(compute), "monitor": monitor()}
    with tqdm(CHECKS.items(), unit="check") as progress:
        results["checks"] = {name: run_check(check, compute, sizes) for name, check in progress}
    if options.smoke:
        print(json.dumps(results))
        return
    results_file.write(options.output or f"micro_checks_{results_file.machine_name()}", results)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--output", help="name of the file in benchmarks/results (default: by the device)")
    parser.add_argument("--smoke", action="store_true", help="print the results and keep nothing")
    parser.add_argument(NEW_LENGTHS_FLAG, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def check_end_to_end(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """The published path, and ours with and without the page features at hand, at one keep ratio."""
    network = random_network(sizes.model, compute)
    arms = make_arms(network, sizes.model, RerankerConfig(device=str(compute.device), dtype=compute.dtype_name))
    chosen = {name: arms[name] for name in ("R0", "A3", "A4", "A5")}
    pages = random_pages(sizes.pages, longest_edge=LONGEST_EDGES[sizes.shape])
    work = Work(query="Which page names the revenue?", pages=pages, keep_ratio=0.25)
    effort = Effort(iterations=3, warm_up_calls=2, warm_up_seconds=30)
    series = measure(chosen, [work], effort, compute, lambda: None)
    return {
        name: {
            "first_call_ms": round(arm.first_call, 1),
            "wall_ms": round(min(sample.wall for sample in arm.samples), 1),
            "device_ms": round(min(sample.device for sample in arm.samples), 1),
        }
        for (name, _), arm in series.items()
    }


CHECKS: dict[str, Check] = {
    "attention": check_attention,
    "matrix products": check_matrix_products,
    "patch embedding": check_patch_embedding,
    "single values": check_single_values,
    "copies": check_copies,
    "resize": check_resize,
    "compiled layers": check_compiled_layers,
    "end to end": check_end_to_end,
}


if __name__ == "__main__":
    main()
