"""Writes `rankings.json`, 50 questions to ten pages each of the browser's PDFs: `python -m tests.data.make_rankings`."""

import json
from pathlib import Path

from benchmarks.pdf_questions import deal_questions, read_pages
from model.training.demo.vocabulary import words
from tests.data.make_browser_pdfs import CALENDAR, GUIDE

TARGET = Path(__file__).parent / "rankings.json"


def make_rankings() -> list[dict[str, object]]:
    """Words that the demo checkpoint knows, and that stand together on one of the ten pages only."""
    pages = read_pages([GUIDE, CALENDAR])
    return [
        {
            "query": question.query,
            "pages": [[pages[place].document, pages[place].number] for place in question.pages],
            "right": question.right,
        }
        for question in deal_questions(pages, count=50, candidates=10, seed=7, known=set(words()))
    ]


if __name__ == "__main__":
    rows = ",\n".join(json.dumps(ranking) for ranking in make_rankings())
    TARGET.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
