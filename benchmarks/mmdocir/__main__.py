"""Page-level recall on MMDocIR, by domain, beside the first stage's own: the protocol of the published results.

    python -m benchmarks.mmdocir --pages MMDocIR_pages.parquet --annotations MMDocIR_annotations.jsonl \\
        --first-stage first_stage.jsonl --model mtri-admin/ZipRerank --keep-ratio 0.5
    python -m benchmarks.mmdocir … --url http://127.0.0.1:8000      # a service that runs already
    python -m benchmarks.mmdocir … --model demo --limit 20          # a trial: prints, keeps nothing

Pages and annotations: the data set MMDocIR/MMDocIR_Evaluation_Dataset. First stage: JSON lines `{"question_id":
"<document>_<index of the question>", "page_ids": [best, second, …]}`, pages counted from 0; without it the candidates are the
first pages of the document, which says how the code runs and nothing about a model.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from benchmarks import results_file
from benchmarks.mmdocir.rankers import Rank, through_library, through_service
from benchmarks.mmdocir.recall import Answer, as_table, summarise
from model import Reranker, RerankerConfig, RerankerError
from model.training.errors import TrainingError
from model.training.examples import DocumentQuestion
from model.training.mmdocir import read_mmdocir_evaluation


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse_options(arguments)
    try:
        questions = _read_questions(options)
        with _ranker(options) as (name, rank):
            summary = summarise(evaluate(questions, rank))
    except (TrainingError, RerankerError) as error:
        raise SystemExit(f"benchmarks.mmdocir: {error}") from error
    results = {"workload": _workload(options, name), **summary}
    print(as_table(summary))
    if options.limit is None:
        results_file.write(
            options.output or results_file.in_file_name(f"mmdocir_{name}_{options.keep_ratio:g}"), results
        )
    else:
        print(json.dumps(results))


def evaluate(questions: Sequence[DocumentQuestion], rank: Rank) -> list[Answer]:
    """Every question answered, one after the other."""
    return [_answer(question, rank) for question in tqdm(questions, desc="questions", file=sys.stderr)]


def _answer(question: DocumentQuestion, rank: Rank) -> Answer:
    return Answer(
        domain=question.domain,
        relevant=question.relevant,
        first_stage=question.page_ids,
        reranked=tuple(question.page_ids[index] for index in rank(question)),
    )


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mmdocir",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pages", type=Path, required=True, help="parquet file with the page images")
    parser.add_argument("--annotations", type=Path, required=True, help="JSON lines with the questions")
    parser.add_argument("--first-stage", type=Path, help="JSON lines with each question's candidates, best first")
    ranker = parser.add_mutually_exclusive_group(required=True)
    ranker.add_argument("--model", help="checkpoint for the library: hub id, folder, or demo")
    ranker.add_argument("--url", help="a running service instead")
    parser.add_argument("--device", default="auto", help="of --model (default: auto)")
    parser.add_argument("--candidates", type=_count, default=20, help="pages to rerank a question (default: 20)")
    parser.add_argument("--keep-ratio", type=float, default=1.0, help="share of visual tokens kept (default: 1.0)")
    parser.add_argument("--limit", type=_count, help="only the first so many questions; nothing is kept")
    parser.add_argument("--skip-limit", type=int, default=0, help="records a file that may be unusable (default: 0)")
    parser.add_argument("--output", help="name of the file in benchmarks/results (default: by model and keep ratio)")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is less than 1")
    return count


def _read_questions(options: argparse.Namespace) -> Sequence[DocumentQuestion]:
    questions = read_mmdocir_evaluation(
        options.pages,
        options.annotations,
        options.first_stage,
        skip_limit=options.skip_limit,
        max_candidates=options.candidates,
    )
    return questions[: options.limit]


@contextmanager
def _ranker(options: argparse.Namespace) -> Iterator[tuple[str, Rank]]:
    """The model's name and what ranks with it."""
    if options.model:
        reranker = Reranker.from_checkpoint(options.model, RerankerConfig(device=options.device))
        yield reranker.name, through_library(reranker, keep_ratio=options.keep_ratio)
        return
    with through_service(options.url, keep_ratio=options.keep_ratio) as rank:
        yield _model_of(options.url), rank


def _model_of(url: str) -> str:
    try:
        return str(httpx.get(f"{url}/info", timeout=30).raise_for_status().json()["model"])
    except httpx.HTTPError as error:
        raise SystemExit(f"{url}/info gave no answer ({type(error).__name__}). Is the service running?") from error


def _workload(options: argparse.Namespace, name: str) -> dict[str, Any]:
    return {
        "model": name,
        "path": "library" if options.model else "service",
        "keep_ratio": options.keep_ratio,
        "candidates": options.candidates,
        "first_stage": "given" if options.first_stage else "document order",
    }


if __name__ == "__main__":
    main()
