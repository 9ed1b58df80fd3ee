"""The table of `ziprerank rank`: aligned, within the terminal, and harmless to it."""

from pathlib import Path

from service.commands.rank_table import RankedRow, as_table, rows_of

LONG = Path("archive/of/many/years/annual-report.pdf")


def row(rank: int, *, document_index: int = 0, page: int | None = 1) -> RankedRow:
    return RankedRow(rank=rank, score=1 / rank, document_index=document_index, page=page, is_degraded=False)


def test_columns_are_aligned() -> None:
    table = as_table([row(1, page=12), row(10, document_index=1, page=None)], [Path("a.pdf"), Path("photo.png")], None)
    assert table.splitlines() == [
        "rank   score  document   page",
        "   1  1.0000  a.pdf        12",
        "  10  0.1000  photo.png     -",
    ]


def test_a_long_path_loses_its_beginning_in_a_narrow_terminal() -> None:
    lines = as_table([row(1)], [LONG], 45).splitlines()
    assert {len(line) for line in lines} == {45}
    assert lines[1].split()[2].startswith("…") and lines[1].split()[2].endswith("annual-report.pdf")


def test_a_path_is_whole_where_there_is_no_terminal() -> None:
    assert str(LONG) in as_table([row(1)], [LONG], None)
    assert str(LONG) in as_table([row(1)], [LONG], 200)


def test_a_file_name_cannot_control_the_terminal() -> None:
    table = as_table([row(1)], [Path("a\x1b[2J\nb.pdf")], None)
    assert "a?[2J?b.pdf" in table and table.count("\n") == 1


def test_rows_are_numbered_in_the_order_of_the_answer() -> None:
    results = [
        {"index": 1, "id": "b", "page": None, "relevance_score": 0.9, "degraded": True},
        {"index": 0, "id": "a#page=3", "page": 3, "relevance_score": 0.1, "more": "of a later version"},
    ]
    assert rows_of({"results": results}, 2) == [
        RankedRow(rank=1, score=0.9, document_index=1, page=None, is_degraded=True),
        RankedRow(rank=2, score=0.1, document_index=0, page=3, is_degraded=False),
    ]
