"""What it costs to report the kept tokens: the same requests with and without, in turn, on random weights of a given shape.

    python -m benchmarks.kept_tokens --shape small          # two CPU cores: a minute
    python -m benchmarks.kept_tokens --shape published      # a card

The page features are at hand, because then a request is shortest and the share of the report largest. The times include the
base64 text of the answer.
"""

import argparse
import base64
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from benchmarks import results_file
from benchmarks.workloads import LONGEST_EDGES, SHAPES, make_reranker, model_shape, random_network, random_pages
from model import PreparedRequest, RerankerConfig
from model.device import choose_compute
from model.reranker import Reranker

LIMIT_PERCENT = 2.0


def seconds_of_answer(reranker: Reranker, request: PreparedRequest) -> float:
    """From the prepared request to its scores and, where it reports them, the texts of its masks."""
    started = time.perf_counter()
    [answer] = reranker.score([request])
    for kept in answer.kept or ():
        base64.b64encode(kept.mask).decode()
    return time.perf_counter() - started


def added_percent(plain: Sequence[float], reporting: Sequence[float]) -> float:
    """By the medians of requests that took turns."""
    return 100 * (statistics.median(reporting) / statistics.median(plain) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--keep-ratio", type=float, default=0.25)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument(
        "--output", help="name of the file in benchmarks/results (default: kept_tokens_ and the machine)"
    )
    options = parser.parse_args()
    compute = choose_compute(options.device, "auto")
    shape = model_shape(options.shape)
    config = RerankerConfig(device=str(compute.device), dtype=compute.dtype_name, compile=False)
    reranker = make_reranker(config, shape, random_network(shape, compute))
    pages = random_pages(options.pages, longest_edge=LONGEST_EDGES[options.shape])
    plain = reranker.prepare("Which page names the revenue?", pages, options.keep_ratio)
    reporting = replace(plain, reports_kept_tokens=True)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for index in tqdm(range(options.iterations + 2), unit="pair"):
        for reports in (False, True) if index % 2 else (True, False):
            took = seconds_of_answer(reranker, reporting if reports else plain)
            if index >= 2:  # the first two load libraries and fill the cache
                seconds[reports].append(took)
    results = {
        "shape": options.shape,
        "pages": options.pages,
        "keep_ratio": options.keep_ratio,
        "plain_ms": round(statistics.median(seconds[False]) * 1000, 3),
        "reporting_ms": round(statistics.median(seconds[True]) * 1000, 3),
        "added_percent": round(added_percent(seconds[False], seconds[True]), 2),
        "limit_percent": LIMIT_PERCENT,
    }
    results_file.write(options.output or f"kept_tokens_{results_file.machine_name()}", results)


if __name__ == "__main__":
    main()
