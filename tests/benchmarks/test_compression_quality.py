import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.compression_quality import as_table, compare
from benchmarks.kendall import kendall_tau
from model import PageScores, Ranking
from model.training.examples import DocumentQuestion

ORDERS = {1.0: (2, 0, 1), 0.5: (2, 1, 0), 0.25: (0, 1, 2)}


class RatioRanker:
    """Orders by keep ratio alone, as written above."""

    def prepare_page(self, page: Image.Image) -> Image.Image:
        return page

    def rank(self, query: str, pages: list[Image.Image], keep_ratio: float) -> Ranking:
        order = ORDERS[keep_ratio]
        tokens = round(100 * keep_ratio)
        window = PageScores(
            logits=(0.0,) * 3, order=order, visual_tokens=100, kept_tokens=tokens, prompt_tokens=tokens + 10
        )
        return Ranking(order=order, logits=None, scores=(0.0,) * 3, windows=(window,))


def question(*relevant: str) -> DocumentQuestion:
    pages = tuple(lambda: Image.new("RGB", (8, 8)) for _ in range(3))
    return DocumentQuestion(
        id="1", query="q", domain="d", pages=pages, page_ids=("a", "b", "c"), relevant=frozenset(relevant)
    )


def test_every_ratio_is_compared_with_the_uncompressed_order_and_the_truth():
    whole, half, quarter = compare(RatioRanker(), [question("c"), question("a", "c")], [0.25, 0.5])
    assert [row["keep_ratio"] for row in (whole, half, quarter)] == [1.0, 0.5, 0.25]
    assert whole["recall"]["1"] == pytest.approx((1 + 0.5) / 2)
    assert quarter["recall"]["1"] == pytest.approx((0 + 0.5) / 2)
    assert half["recall"]["3"] == whole["recall"]["3"] == 1
    assert [row["top_1_same"] for row in (whole, half, quarter)] == [1, 1, 0]
    assert [row["kendall_tau"] for row in (whole, half, quarter)] == pytest.approx([1, 1 / 3, -1 / 3])
    assert [row["visual_tokens"] for row in (whole, half, quarter)] == [100, 50, 25]


def test_the_table_has_a_row_a_ratio():
    rows = compare(RatioRanker(), [question("c")], [0.5])
    assert as_table(rows).splitlines()[2].startswith("| 1 | 1.000 | 1.000 | 1.000 | 1.000 | 1.00 |")


def test_kendalls_tau_counts_pairs():
    assert kendall_tau("abcd", "abcd") == 1
    assert kendall_tau("abcd", "dcba") == -1
    assert kendall_tau("abcd", "bacd") == pytest.approx(4 / 6)


def test_made_up_pages_are_ranked_from_the_command_line():
    command = [sys.executable, "-m", "benchmarks.compression_quality", "--limit", "2", "--candidates", "3"]
    done = subprocess.run([*command, "--ratios", "0.5"], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]] == ["1", "0.5"]
