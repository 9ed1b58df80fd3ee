"""What other ways of ranking change in the order: tournament windows instead of sliding ones, a decoder in 8 bits.

    python -m benchmarks.ranking_agreement                        # minutes on a CPU, the bundled checkpoint
    python -m benchmarks.ranking_agreement --model mtri-admin/ZipRerank --pages-from folder-of-page-images
    python -m benchmarks.ranking_agreement --model tests/data/conformance/checkpoint \\
        --pages-from tests/data/conformance/pages --output ranking_agreement_conformance

Windows are compared twice: with simulated rankers, whose noise is known (each window sees the true relevance plus fresh
noise; the first order is the true one plus a first stage's noise), and with a checkpoint on page images. Without a folder
these are made-up pages of the demo checkpoint's world in the order of chance, drawn anew from seeds that its training never
used, and each query's words stand together on one of them only: so it is known which page is right. The weights of the
conformance checkpoint are random: there the 8-bit schemes show what rounding does to logits, and nothing about quality.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks import results_file
from benchmarks.kendall import kendall_tau
from model import Reranker, RerankerConfig, WindowStrategy, choose_windows
from model.dataflow import PageScores, PreparedPage
from model.quantisation import quantise_obstacle
from model.training.demo.page_pool import draw_pool
from model.training.demo.quality import HELD_OUT_POOL, deal_lists
from model.training.demo.recipe import read_recipe
from model.training.demo.run import style_of

TOP = 5
FIRST_STAGE_NOISE = 1.0
QUERIES = (
    "What was the revenue of the third quarter?", "opening hours", "Which sensor failed in the cold?", "table of contents",
    "How is the mirror cleaned?", "safety distance", "names of the authors", "chart of monthly visitors",
)  # fmt: skip

STRATEGIES: tuple[WindowStrategy, ...] = ("sliding", "tournament")
SCHEMES = ("fp8", "int8")
WINDOW = 20
_SPARE_PAGES = 20  # of a pool, beside as many as are in a list

RankWindow = Callable[[Sequence[int]], list[int]]
"""Page indices to an order: indices into the window, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    query: str
    pages: Sequence[PreparedPage]
    right: int | None = None  # index into `pages`, where it is known


def main() -> None:
    options = _parse_options()
    trials, queries = (20, 2) if options.smoke else (options.trials, options.queries)
    config = RerankerConfig(device=options.device, keep_ratio=options.keep_ratio, quantise="none")
    exact = Reranker.from_checkpoint(options.model, config)
    many, one_window = (_questions(options, exact, count, queries) for count in (options.pages, WINDOW))
    results = {
        "model": exact.name,
        "pages": len(many[0].pages),
        "keep_ratio": options.keep_ratio,
        "simulated_windows": [
            simulate(pages, noise, trials)
            for pages in (40, 100)
            for noise in tqdm((0.0, 0.1, 0.3), desc=f"simulated rankers, {pages} pages", file=sys.stderr)
        ],
        "checkpoint_windows": compare_windows(exact, many),
        "quantised": compare_quantised(exact, options.model, one_window),
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
    parser.add_argument("--pages", type=int, default=100, help="of a query (default: 100)")
    parser.add_argument("--queries", type=int, default=30, help="where the pages are made up (default: 30)")
    parser.add_argument("--pages-from", type=Path, help="folder with page images, in the order of a first stage")
    parser.add_argument("--trials", type=int, default=500, help="simulated queries (default: 500)")
    parser.add_argument("--smoke", action="store_true", help="seconds: few trials, two queries; nothing is kept")
    parser.add_argument("--output", default="ranking_agreement", help="name of the file in benchmarks/results")
    return parser.parse_args()


def _questions(options: argparse.Namespace, reranker: Reranker, pages: int, queries: int) -> list[Question]:
    if options.pages_from is None:
        return made_up_questions(reranker, pages, queries)
    files = sorted(options.pages_from.iterdir())[:pages]
    images = [reranker.prepare_page(np.asarray(Image.open(path).convert("RGB"))) for path in files]
    return [Question(query=query, pages=images) for query in QUERIES]


def made_up_questions(reranker: Reranker, pages: int, queries: int) -> list[Question]:
    """Two to four words that stand together on one of the pages only."""
    recipe = read_recipe("small")
    image = reranker.model_config.image
    seeds = recipe.page_seeds(HELD_OUT_POOL, pages + _SPARE_PAGES)
    pool = draw_pool(seeds, style_of(recipe.world), image)
    prepared = [reranker.prepare_page(pool.colour(number)) for number in range(len(pool))]
    return [
        Question(query=each.text, pages=[prepared[page] for page in each.pages], right=each.right)
        for each in deal_lists(pool, pages, queries, seed=recipe.seed)
    ]


def simulate(page_count: int, noise: float, trials: int) -> dict[str, Any]:
    """Tournament and sliding windows under a ranker with that noise (relevance has deviation 1)."""
    generator = np.random.default_rng(page_count)
    drawn = [_simulate_query(page_count, noise, generator) for _ in range(trials)]
    return {
        "pages": page_count,
        "noise": noise,
        "trials": trials,
        "windows": {strategy: len(_windows(strategy, page_count)) for strategy in STRATEGIES},
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
    plan = choose_windows(strategy, page_count, window_size=WINDOW, stride=WINDOW // 2)
    while turn := plan.turn:
        plan.submit([rank_window(window) for window in turn])
    return plan.order


def _windows(strategy: WindowStrategy, page_count: int) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []

    def keep_order(window: Sequence[int]) -> list[int]:
        seen.append(tuple(window))
        return list(range(len(window)))

    play(strategy, page_count, keep_order)
    return seen


def compare_windows(reranker: Reranker, questions: Sequence[Question]) -> dict[str, Any]:
    """Tournament against sliding windows on a checkpoint's own scores."""
    orders: dict[str, list[Sequence[int]]] = {strategy: [] for strategy in STRATEGIES}
    for question in tqdm(questions, desc="windows of the checkpoint", file=sys.stderr):
        for strategy in STRATEGIES:
            orders[strategy].append(reranker.rank(question.query, question.pages, strategy=strategy).order)
    pairs = list(zip(*orders.values(), strict=True))
    page_count = len(questions[0].pages)
    return {
        "queries": len(questions),
        "windows": {strategy: len(_windows(strategy, page_count)) for strategy in STRATEGIES},
        "top_5_shared": round(statistics.mean(_shared(one[:TOP], other[:TOP]) for one, other in pairs), 4),
        "top_1_same": _top_1_same(pairs),
        "recall_at_1": {strategy: _recall_at_1(questions, orders[strategy]) for strategy in STRATEGIES},
    }


def compare_quantised(exact: Reranker, model: str, questions: Sequence[Question]) -> dict[str, Any]:
    """Each scheme that runs on the device against the exact decoder, one window of pages a query."""
    expected = _score_all(exact, questions, "exact decoder")
    schemes = {}
    for scheme in SCHEMES:
        problem = quantise_obstacle(scheme, exact.compute)
        if problem:
            schemes[scheme] = {"not_run": problem}
            continue
        rounded = Reranker.from_checkpoint(model, replace(exact.config, quantise=scheme))
        schemes[scheme] = _agreement(questions, expected, _score_all(rounded, questions, f"{scheme} decoder"))
    return {
        "queries": len(questions),
        "pages": len(questions[0].pages),
        "exact_dtype": exact.compute.dtype_name,
        "exact_logits_span": round(statistics.mean(max(scores.logits) - min(scores.logits) for scores in expected), 4),
        "exact_recall_at_1": _recall_at_1(questions, [scores.order for scores in expected]),
        **schemes,
    }


def _score_all(reranker: Reranker, questions: Sequence[Question], name: str) -> list[PageScores]:
    return [
        reranker.score([reranker.prepare(question.query, question.pages)])[0]
        for question in tqdm(questions, desc=name, file=sys.stderr)
    ]


def _agreement(
    questions: Sequence[Question], expected: Sequence[PageScores], rounded: Sequence[PageScores]
) -> dict[str, Any]:
    pairs = list(zip(expected, rounded, strict=True))
    orders = [(exact.order, moved.order) for exact, moved in pairs]
    return {
        "largest_logit_difference": round(
            max(float(np.abs(np.subtract(exact.logits, moved.logits)).max()) for exact, moved in pairs), 4
        ),
        "kendall_tau": round(statistics.mean(kendall_tau(exact, moved) for exact, moved in orders), 4),
        "top_5_shared": round(statistics.mean(_shared(exact[:TOP], moved[:TOP]) for exact, moved in orders), 4),
        "top_1_same": _top_1_same(orders),
        "recall_at_1": _recall_at_1(questions, [moved for _, moved in orders]),
    }


def _top_1_same(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    return round(statistics.mean(float(one[0] == other[0]) for one, other in pairs), 4)


def _recall_at_1(questions: Sequence[Question], orders: Sequence[Sequence[int]]) -> float | None:
    """None where the right page is not known."""
    if questions[0].right is None:
        return None
    return round(
        statistics.mean(float(order[0] == each.right) for each, order in zip(questions, orders, strict=True)), 4
    )


def _shared(first: Sequence[int], second: Sequence[int]) -> float:
    return len(set(first) & set(second)) / TOP


if __name__ == "__main__":
    main()
