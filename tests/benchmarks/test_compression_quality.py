import sys
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from benchmarks.compression_quality import as_table, compare, main
from benchmarks.kendall import kendall_tau
from model import PageScores, Ranking, Reranker
from model.training.demo import run
from model.training.examples import DocumentQuestion
from tests.model.training.demo.worlds import small_style

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


def ratio_ranker() -> Reranker:
    """In place of a reranker, of which the comparison uses `prepare_page` and `rank` alone."""
    return cast(Reranker, RatioRanker())


def question(*relevant: str) -> DocumentQuestion:
    pages = tuple(lambda: Image.new("RGB", (8, 8)) for _ in range(3))
    return DocumentQuestion(
        id="1", query="q", domain="d", pages=pages, page_ids=("a", "b", "c"), relevant=frozenset(relevant)
    )


def test_every_ratio_is_compared_with_the_uncompressed_order_and_the_truth() -> None:
    whole, half, quarter = compare(ratio_ranker(), [question("c"), question("a", "c")], [0.25, 0.5])
    assert [row["keep_ratio"] for row in (whole, half, quarter)] == [1.0, 0.5, 0.25]
    assert whole["recall"]["1"] == pytest.approx((1 + 0.5) / 2)
    assert quarter["recall"]["1"] == pytest.approx((0 + 0.5) / 2)
    assert half["recall"]["3"] == whole["recall"]["3"] == 1
    assert [row["top_1_same"] for row in (whole, half, quarter)] == [1, 1, 0]
    assert [row["kendall_tau"] for row in (whole, half, quarter)] == pytest.approx([1, 1 / 3, -1 / 3])
    assert [row["visual_tokens"] for row in (whole, half, quarter)] == [100, 50, 25]


def test_the_table_has_a_row_a_ratio() -> None:
    rows = compare(ratio_ranker(), [question("c")], [0.5])
    assert as_table(rows).splitlines()[2].startswith("| 1 | 1.000 | 1.000 | 1.000 | 1.000 | 1.00 |")


def test_kendalls_tau_counts_pairs() -> None:
    assert kendall_tau("abcd", "abcd") == 1
    assert kendall_tau("abcd", "dcba") == -1
    assert kendall_tau("abcd", "bacd") == pytest.approx(4 / 6)


def test_made_up_pages_are_ranked_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In Pillow's own font, whatever this machine has."""
    monkeypatch.setattr(run, "installed_fonts", lambda: small_style(tmp_path).fonts)
    command = ["benchmarks.compression_quality", "--limit", "2", "--candidates", "3", "--ratios", "0.5"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["1", "0.5"]


def test_without_fonts_no_pages_are_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "installed_fonts", tuple)
    monkeypatch.setattr(sys, "argv", ["benchmarks.compression_quality", "--limit", "2"])
    with pytest.raises(SystemExit, match=r"benchmarks\.compression_quality: This machine has no fonts\. Install"):
        main()
