"""What dropping visual tokens costs and saves: recall, agreement with the uncompressed order, and latency by keep ratio.

    python -m benchmarks.compression_quality                                    # the demo checkpoint on made-up pages
    python -m benchmarks.compression_quality --model mtri-admin/ZipRerank \\
        --pages MMDocIR_pages.parquet --annotations MMDocIR_annotations.jsonl --first-stage first_stage.jsonl

Made-up pages are those of the demo checkpoint's world, drawn anew from a seed that its training never used. Latency is the time
of one forward pass over a question's pages, vision included: feature caches are off.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from benchmarks import results_file
from benchmarks.kendall import kendall_tau
from benchmarks.mmdocir.recall import CUTS, recall_at
from benchmarks.plots import draw_compression
from model import Ranking, Reranker, RerankerConfig, RerankerError
from model.training.demo.page_pool import draw_pool
from model.training.demo.quality import HELD_OUT_POOL, deal_lists
from model.training.demo.recipe import read_recipe
from model.training.demo.run import style_of
from model.training.errors import TrainingError
from model.training.examples import DocumentQuestion
from model.training.mmdocir import read_mmdocir_evaluation

RATIOS = (1.0, 0.75, 0.5, 0.25, 0.125)
_MADE_UP_PAGES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedQuestion:
    """A question's order at one keep ratio, and what it took."""

    order: tuple[str, ...]  # page ids, best first
    seconds: float
    tokens: int  # visual tokens that the decoder saw


def main() -> None:
    options = _parse_options()
    try:
        reranker = _load(options)
        questions = _read_questions(options, reranker)
        ratios = compare(reranker, questions, options.ratios)
        results = {
            "model": reranker.name,
            "set": "made up" if options.pages is None else options.pages.name,
            "questions": len(questions),
            "pages": statistics.median(len(question.pages) for question in questions),
            "ratios": ratios,
        }
    except (TrainingError, RerankerError) as error:
        raise SystemExit(f"benchmarks.compression_quality: {error}") from error
    print(as_table(ratios))
    if options.limit is None:
        name = f"compression_quality_{results_file.in_file_name(reranker.name)}"
        results_file.write(name, results)
        draw_compression(results, results_file.FOLDER / f"{name}.png")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="hub id, folder, or demo (default: demo)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="keep ratios; 1 is always measured")
    parser.add_argument("--pages", type=Path, help="MMDocIR parquet with the page images (default: made-up pages)")
    parser.add_argument("--annotations", type=Path, help="MMDocIR JSON lines with the questions")
    parser.add_argument("--first-stage", type=Path, help="JSON lines with each question's candidates, best first")
    parser.add_argument("--candidates", type=int, default=10, help="pages a question (default: 10)")
    parser.add_argument("--made-up-questions", type=int, default=50, help="where no set is given (default: 50)")
    parser.add_argument("--limit", type=int, help="only the first so many questions; nothing is kept")
    options = parser.parse_args()
    if (options.pages is None) != (options.annotations is None):
        parser.error("--pages and --annotations belong together")
    return options


def _load(options: argparse.Namespace) -> Reranker:
    config = RerankerConfig(device=options.device, feature_cache_gpu_bytes=0, feature_cache_host_bytes=0)
    return Reranker.from_checkpoint(options.model, config)


def _read_questions(options: argparse.Namespace, reranker: Reranker) -> Sequence[DocumentQuestion]:
    if options.pages is None:
        return made_up_questions(reranker, options.limit or options.made_up_questions, options.candidates)
    questions = read_mmdocir_evaluation(
        options.pages, options.annotations, options.first_stage, skip_limit=0, max_candidates=options.candidates
    )
    return questions[: options.limit]


def made_up_questions(reranker: Reranker, count: int, candidates: int) -> list[DocumentQuestion]:
    """Two to four words that stand together on one of the pages only."""
    recipe = read_recipe("small")
    image = reranker.model_config.image
    pool = draw_pool(recipe.page_seeds(HELD_OUT_POOL, _MADE_UP_PAGES), style_of(recipe.world), image)
    return [
        DocumentQuestion(
            id=f"made-up-{number}",
            query=each.text,
            domain="made up",
            pages=tuple(partial(Image.fromarray, pool.colour(page)) for page in each.pages),
            page_ids=tuple(map(str, each.pages)),
            relevant=frozenset({str(each.pages[each.right])}),
        )
        for number, each in enumerate(deal_lists(pool, candidates, count, seed=recipe.seed))
    ]


def compare(reranker: Reranker, questions: Sequence[DocumentQuestion], ratios: Sequence[float]) -> list[dict[str, Any]]:
    """All ratios in turn on every question, so that drift meets all; the uncompressed one first."""
    ratios = sorted({1.0, *ratios}, reverse=True)
    ranked: dict[float, list[RankedQuestion]] = {ratio: [] for ratio in ratios}
    for question in tqdm(questions, desc="questions", file=sys.stderr):
        pages = [reranker.prepare_page(page()) for page in question.pages]
        for ratio in ratios:
            started = time.perf_counter()
            ranking = reranker.rank(question.query, pages, ratio)
            ranked[ratio].append(_ranked(question, ranking, time.perf_counter() - started))
    return [_summary(ratio, ranked[ratio], ranked[1.0], questions) for ratio in ratios]


def _ranked(question: DocumentQuestion, ranking: Ranking, seconds: float) -> RankedQuestion:
    return RankedQuestion(
        order=tuple(question.page_ids[index] for index in ranking.order),
        seconds=seconds,
        tokens=sum(window.kept_tokens for window in ranking.windows),
    )


def _summary(
    ratio: float,
    ranked: Sequence[RankedQuestion],
    uncompressed: Sequence[RankedQuestion],
    questions: Sequence[DocumentQuestion],
) -> dict[str, Any]:
    pairs = list(zip(ranked, uncompressed, strict=True))
    return {
        "keep_ratio": ratio,
        "recall": {
            str(cut): statistics.fmean(
                recall_at(cut, each.order, question.relevant) for each, question in zip(ranked, questions, strict=True)
            )
            for cut in CUTS
        },
        "kendall_tau": statistics.fmean(kendall_tau(each.order, whole.order) for each, whole in pairs),
        "top_1_same": statistics.fmean(each.order[0] == whole.order[0] for each, whole in pairs),
        "latency_ms": round(statistics.median(each.seconds for each in ranked) * 1000, 1),
        "visual_tokens": statistics.median(each.tokens for each in ranked),
    }


def as_table(ratios: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    header = ["keep ratio", *(f"recall@{cut}" for cut in CUTS), "Kendall's tau", "same first", "latency, ms", "tokens"]
    rows = [
        [
            f"{row['keep_ratio']:g}",
            *(f"{row['recall'][str(cut)]:.3f}" for cut in CUTS),
            f"{row['kendall_tau']:.3f}",
            f"{row['top_1_same']:.2f}",
            f"{row['latency_ms']:.0f}",
            f"{row['visual_tokens']:.0f}",
        ]
        for row in ratios
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---:"] * len(header), *rows])


if __name__ == "__main__":
    main()
