"""What faster ways of ranking change in the order: tournament windows against sliding ones, 8-bit products against exact ones.

    python -m benchmarks.ranking_agreement                        # minutes on a CPU, the bundled checkpoint
    python -m benchmarks.ranking_agreement --model mtri-admin/ZipRerank --pages-from folder-of-page-images

Windows are compared twice: with simulated rankers, whose noise is known (each window sees the true relevance plus fresh
noise; the first order is the true one plus a first stage's noise), and with a checkpoint on page images. The bundled
checkpoint's order carries no meaning, so for it the figures say how far two procedures drift apart on arbitrary scores, not
how good they are.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks import results_file
from benchmarks.kendall import kendall_tau
from benchmarks.workloads import random_pages
from model import Reranker, RerankerConfig, WindowStrategy, choose_windows

TOP = 5
FIRST_STAGE_NOISE = 1.0
QUERIES = (
    "What was the revenue of the third quarter?", "opening hours", "Which sensor failed in the cold?", "table of contents",
    "How is the mirror cleaned?", "safety distance", "names of the authors", "chart of monthly visitors",
)  # fmt: skip

RankWindow = Callable[[Sequence[int]], list[int]]
"""Page indices to an order: indices into the window, best first."""


def main() -> None:
    options = _parse_options()
    trials, queries = (20, QUERIES[:2]) if options.smoke else (options.trials, QUERIES)
    config = RerankerConfig(device=options.device, keep_ratio=options.keep_ratio)
    exact = Reranker.from_checkpoint(options.model, config)
    images = list(_images(options.pages_from, options.pages))
    results = {
        "model": exact.name,
        "pages": len(images),
        "keep_ratio": options.keep_ratio,
        "simulated_windows": [
            simulate(pages, noise, trials)
            for pages in (40, 100)
            for noise in tqdm((0.0, 0.1, 0.3), desc=f"simulated rankers, {pages} pages", file=sys.stderr)
        ],
        "checkpoint_windows": compare_windows(exact, images, queries),
        "fp8": compare_fp8(exact, options.model, images[:20], queries),
    }
    if options.smoke:
        print(json.dumps(results))
    else:
        results_file.write(options.output, results)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="checkpoint: hub id, folder, or demo (default)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keep-ratio", type=float, default=0.5)
    parser.add_argument("--pages", type=int, default=100, help="random pages, where no folder is given (default: 100)")
    parser.add_argument("--pages-from", type=Path, help="folder with page images, in the order of a first stage")
    parser.add_argument("--trials", type=int, default=500, help="simulated queries (default: 500)")
    parser.add_argument("--smoke", action="store_true", help="seconds: few trials, two queries; nothing is kept")
    parser.add_argument("--output", default="ranking_agreement", help="name of the file in benchmarks/results")
    return parser.parse_args()


def _images(folder: Path | None, count: int) -> list[np.ndarray]:
    if folder is None:
        return [np.asarray(page)[:256, :192] for page in random_pages(count)]
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]


def simulate(page_count: int, noise: float, trials: int) -> dict[str, Any]:
    """Tournament and sliding windows under a ranker with that noise (relevance has deviation 1)."""
    generator = np.random.default_rng(page_count)
    drawn = [_simulate_query(page_count, noise, generator) for _ in range(trials)]
    return {
        "pages": page_count,
        "noise": noise,
        "trials": trials,
        "windows": {strategy: len(_windows(strategy, page_count)) for strategy in ("sliding", "tournament")},
        **{name: round(statistics.mean(values[name] for values in drawn), 4) for name in drawn[0]},
    }


def _simulate_query(page_count: int, noise: float, generator: np.random.Generator) -> dict[str, float]:
    relevance = generator.normal(size=page_count)
    relevance = relevance[np.argsort(-(relevance + FIRST_STAGE_NOISE * generator.normal(size=page_count)))]

    def rank_window(window: Sequence[int]) -> list[int]:
        seen = relevance[list(window)] + noise * generator.normal(size=len(window))
        return [int(index) for index in np.argsort(-seen)]

    sliding, again, tournament = (
        play(strategy, page_count, rank_window)[:TOP] for strategy in ("sliding", "sliding", "tournament")
    )
    truth = [int(index) for index in np.argsort(-relevance)[:TOP]]
    return {
        "top_5_shared": _shared(sliding, tournament),
        "top_5_shared_by_two_sliding_runs": _shared(sliding, again),
        "top_1_same": float(sliding[0] == tournament[0]),
        "true_top_5_found_by_sliding": _shared(truth, sliding),
        "true_top_5_found_by_tournament": _shared(truth, tournament),
    }


def play(strategy: WindowStrategy, page_count: int, rank_window: RankWindow) -> tuple[int, ...]:
    """The final order under windows of 20 pages."""
    windows = choose_windows(strategy, page_count, window_size=20, stride=10)
    try:
        turn = next(windows)
        while True:
            turn = windows.send([rank_window(window) for window in turn])
    except StopIteration as stop:
        order: tuple[int, ...] = stop.value
        return order


def _windows(strategy: WindowStrategy, page_count: int) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []

    def keep_order(window: Sequence[int]) -> list[int]:
        seen.append(tuple(window))
        return list(range(len(window)))

    play(strategy, page_count, keep_order)
    return seen


def compare_windows(reranker: Reranker, images: list[np.ndarray], queries: Sequence[str]) -> dict[str, Any]:
    """Tournament against sliding windows on a checkpoint's own scores."""
    pages = [reranker.prepare_page(image) for image in images]
    shared, same = [], []
    for query in tqdm(queries, desc="windows of the checkpoint", file=sys.stderr):
        sliding, tournament = (
            reranker.rank(query, pages, strategy=strategy).order[:TOP] for strategy in ("sliding", "tournament")
        )
        shared.append(_shared(sliding, tournament))
        same.append(float(sliding[0] == tournament[0]))
    return {
        "queries": len(queries),
        "windows": {strategy: len(_windows(strategy, len(pages))) for strategy in ("sliding", "tournament")},
        "top_5_shared": round(statistics.mean(shared), 4),
        "top_1_same": round(statistics.mean(same), 4),
    }


def compare_fp8(exact: Reranker, model: str, images: list[np.ndarray], queries: Sequence[str]) -> dict[str, Any]:
    """8-bit products against exact ones, one window of pages a query."""
    rounded = Reranker.from_checkpoint(model, replace(exact.config, fp8=True))
    differences, taus, tops = [], [], []
    for query in tqdm(queries, desc="8-bit products", file=sys.stderr):
        request = exact.prepare(query, images)
        [ours], [eight] = exact.score([request]), rounded.score([request])
        differences.append(float(np.abs(np.subtract(ours.logits, eight.logits)).max()))
        taus.append(kendall_tau(ours.order, eight.order))
        tops.append(float(ours.order[0] == eight.order[0]))
    return {
        "queries": len(queries),
        "pages": len(images),
        "exact_dtype": exact.compute.dtype_name,
        "largest_logit_difference": round(max(differences), 4),
        "kendall_tau": round(statistics.mean(taus), 4),
        "top_1_same": round(statistics.mean(tops), 4),
    }


def _shared(first: Sequence[int], second: Sequence[int]) -> float:
    return len(set(first) & set(second)) / TOP


if __name__ == "__main__":
    main()
