"""How well the demo checkpoint ranks pages that no training has seen: Recall@1, by pages in the list and keep ratio.

Made-up pages are drawn for this from seeds of their own: print of one size on A4, at least 100 words a page, queries of two
to four words that stand together on one page of the list; once in the layouts and fonts of the training, once in a layout and
once in fonts that it has never seen. Pages of PDFs are asked for words of their text layer, in the same way: once for words
that the checkpoint knows, once for any words of three letters or more.

    python -m benchmarks.demo_quality                                # the bundled checkpoint
    python -m benchmarks.demo_quality --model demo-training/checkpoint --lists 200
    python -m benchmarks.demo_quality --print 20 --lists 50          # smaller print than it was trained on
    python -m benchmarks.demo_quality --pdf service/demo/town-guide.pdf tests/data/club-calendar.pdf
    python -m benchmarks.demo_quality --pdf tests/data/licence.pdf    # a text that was not written for it
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import results_file
from benchmarks.pdf_questions import PdfPage, PdfQuestion, deal_questions, read_pages
from model import Reranker, RerankerConfig
from model.pages.fonts import installed_fonts
from model.training.demo.page_pool import draw_pool
from model.training.demo.pages import HELD_OUT_LAYOUT, Style
from model.training.demo.quality import HELD_OUT_POOL, Quality, measure
from model.training.demo.recipe import Recipe, read_recipe
from model.training.demo.run import style_of
from model.training.demo.vocabulary import words

PAGES = (10, 20)
PDF_PAGES = 10
KEEP_RATIOS = (1.0, 0.5, 0.25)
FEWEST_WORDS = 100
HELD_OUT_FONTS = ("Roboto-Regular", "Lato-Regular", "FreeSans")
_DRAWN = 600  # pages, of which those with too few words are left out


def main() -> None:
    options = _parse_options()
    started = time.perf_counter()
    reranker = Reranker.from_checkpoint(options.model, RerankerConfig(device=options.device))
    seconds = round(time.perf_counter() - started, 2)
    print(f"loaded in {seconds} s", file=sys.stderr)
    measured = _on_pdfs(reranker, options) if options.pdf else _on_made_up_pages(reranker, options)
    if options.keep:
        asked = "_".join(path.stem for path in options.pdf) if options.pdf else f"{options.print:g}pt"
        name = results_file.in_file_name(f"demo_quality_{reranker.name}_{asked}")
        results_file.write(name, {"model": reranker.name, "load_seconds": seconds, **measured})


def _on_made_up_pages(reranker: Reranker, options: argparse.Namespace) -> dict[str, Any]:
    recipe = replace(read_recipe(options.recipe), seed=options.seed)
    results = {}
    for world, style in _worlds(recipe, options.print).items():
        print(f"{world}:", file=sys.stderr)
        pool = draw_pool(
            recipe.page_seeds(HELD_OUT_POOL, _DRAWN), style, reranker.model_config.image, fewest_words=FEWEST_WORDS
        )
        rows = list(
            measure(reranker, pool, lists=options.lists, pages=PAGES, keep_ratios=KEEP_RATIOS, seed=recipe.seed)
        )
        results[world] = [asdict(row) for row in rows]
        print(f"\n{world} ({len(pool)} pages)\n\n{_table(rows)}\n")
    return {"print_points": options.print, "seed": options.seed, "worlds": results}


def _on_pdfs(reranker: Reranker, options: argparse.Namespace) -> dict[str, Any]:
    pages = read_pages(options.pdf)
    results = {}
    for kind, known in {"words that it knows": set(words()), "any words": None}.items():
        questions = deal_questions(pages, count=options.lists, candidates=PDF_PAGES, seed=options.seed, known=known)
        rows = [_on_questions(reranker, pages, questions, keep_ratio) for keep_ratio in KEEP_RATIOS]
        results[kind] = [asdict(row) for row in rows]
        print(f"\n{kind} ({len(pages)} pages)\n\n{_table(rows)}\n")
    return {"pdfs": [path.name for path in options.pdf], "seed": options.seed, "queries": results}


def _on_questions(
    reranker: Reranker, pages: Sequence[PdfPage], questions: Sequence[PdfQuestion], keep_ratio: float
) -> Quality:
    right = sum(
        reranker.rank(each.query, [pages[place].pixels for place in each.pages], keep_ratio).order[0] == each.right
        for each in tqdm(questions, leave=False)
    )
    return Quality(pages=PDF_PAGES, keep_ratio=keep_ratio, lists=len(questions), recall_at_1=right / len(questions))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, or a folder (default: demo)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--recipe", default="small", help="whose world it is (default: small)")
    parser.add_argument("--print", type=float, default=28.0, help="points on A4, of made-up pages (default: 28)")
    parser.add_argument("--lists", type=int, default=100, help="of each number of pages (default: 100)")
    parser.add_argument(
        "--pdf", type=Path, nargs="+", help="real PDFs instead of made-up pages; all pages of all of them"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the pages and questions (default: 1)")
    parser.add_argument("--keep", action="store_true", help="keep the result")
    return parser.parse_args()


def _worlds(recipe: Recipe, points: float) -> dict[str, Style]:
    known = replace(style_of(recipe.world), smallest_print=points, largest_print=points)
    installed = {path.stem: path for path in installed_fonts()}
    strange = tuple(installed[name] for name in HELD_OUT_FONTS if name in installed)
    worlds = {
        "layouts and fonts of the training": known,
        "a layout that it has not seen": replace(known, layouts=(HELD_OUT_LAYOUT,)),
    }
    return worlds | ({"fonts that it has not seen": replace(known, fonts=strange)} if strange else {})


def _table(rows: list[Quality]) -> str:
    header = "| pages | keep ratio | lists | Recall@1 | by chance |\n| ---: | ---: | ---: | ---: | ---: |"
    lines = (
        f"| {row.pages} | {row.keep_ratio:g} | {row.lists} | {row.recall_at_1:.2f} | {1 / row.pages:.2f} |"
        for row in rows
    )
    return "\n".join([header, *lines])


if __name__ == "__main__":
    main()
