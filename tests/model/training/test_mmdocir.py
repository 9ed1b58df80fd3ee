"""Small files in the layouts of the public ones. A page's colour says which it is."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model.training.errors import DataError
from model.training.mmdocir import StoredPage, read_mmdocir_evaluation, read_mmdocir_training


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 6), shade).save(buffer, "PNG")
    return buffer.getvalue()


def write_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def page_file(folder: Path, name: str, rows: list[tuple[str, Any, Any]]) -> Path:
    path = folder / f"{name}_filter.parquet"
    names, pages, images = (list(column) for column in zip(*rows, strict=True))
    pq.write_table(pa.table({"file_name": names, "page": pages, "image": images, "domain": [name] * len(rows)}), path)
    return path


def ranking_of(**changes: Any) -> dict[str, Any]:
    record = {
        "query_id": 7, "query": "How high is the tide?", "doc_name": "tides", "domain": "DUDE",
        "candidate_page_ids": [4, 0, 2], "gt_page_ids": [2], "openai_ranking": [2, 0, 1], "ranked_page_ids": [2, 4, 0],
    }  # fmt: skip
    return {**record, **changes}


def shades(pages: Any) -> list[Any]:
    return [page().getpixel((0, 0)) for page in pages]


@pytest.fixture
def page_files(tmp_path: Path) -> list[Path]:
    """`tides` has the shades 100 to 104 in DUDE; a document of that name in Wiki-ss has others."""
    wiki = [("tides", page, {"bytes": picture(page), "path": None}) for page in range(5)]
    dude = [("tides", page, picture(100 + page)) for page in range(5)] + [("mirrors", 0, b"no picture")]
    return [page_file(tmp_path, "Wiki-ss", wiki), page_file(tmp_path, "DUDE", dude)]


def test_rankings_are_joined_with_their_pages(tmp_path: Path, page_files: list[Path]) -> None:
    [example] = read_mmdocir_training(page_files, write_lines(tmp_path / "r.jsonl", ranking_of()), skip_limit=0)
    assert (example.id, example.query) == ("DUDE/7", "How high is the tide?")
    assert (example.page_ids, example.ranking, example.relevant) == (("4", "0", "2"), (2, 0, 1), frozenset({2}))
    assert shades(example.pages) == [(104,) * 3, (100,) * 3, (102,) * 3]
    assert example.pages[0]().mode == "RGB"


def test_the_file_of_the_domain_comes_first_and_spelling_does_not_matter(
    tmp_path: Path, page_files: list[Path]
) -> None:
    rankings = write_lines(tmp_path / "r.jsonl", ranking_of(domain="Wiki-SS"), ranking_of(domain="elsewhere"))
    examples = read_mmdocir_training(page_files, rankings, skip_limit=0)
    assert [shades(example.pages)[0] for example in examples] == [(4, 4, 4), (4, 4, 4)]


def test_candidates_beyond_the_limit_leave_the_teacher_s_order_of_the_others(
    tmp_path: Path, page_files: list[Path]
) -> None:
    record = ranking_of(
        candidate_page_ids=[3, 1, 4, 0, 2],
        openai_ranking=[4, 2, 0, 3, 1],
        ranked_page_ids=[2, 4, 3, 0, 1],
        gt_page_ids=[1, 2],
    )
    rankings = write_lines(tmp_path / "r.jsonl", record)
    [example] = read_mmdocir_training(page_files, rankings, skip_limit=0, max_candidates=3)
    assert (example.page_ids, example.ranking, example.relevant) == (("3", "1", "4"), (2, 0, 1), frozenset({1}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"query": ""}, "`query` must be a text"),
        ({"doc_name": "unknown"}, "no page file holds page 4 of unknown"),
        ({"candidate_page_ids": [4, 0, 9], "ranked_page_ids": [9, 4, 0]}, "no page file holds page 9 of tides"),
        ({"candidate_page_ids": [4, 0, 4]}, "`candidate_page_ids` names a page twice"),
        ({"openai_ranking": [3, 1, 2]}, "each of the 3 candidates once, by 0 to 2"),
        ({"openai_ranking": [2, 0]}, "each of the 3 candidates once"),
        ({"openai_ranking": [True, False, 2]}, "each of the 3 candidates once"),
        ({"openai_ranking": [0, 1, 2]}, "disagree"),
        ({"candidate_page_ids": [4], "openai_ranking": [0], "ranked_page_ids": [4]}, "at least 2 are needed"),
        ({"gt_page_ids": None}, "`gt_page_ids` must be a list"),
    ],
)
def test_an_unusable_ranking_is_named_with_its_reason(
    tmp_path: Path, page_files: list[Path], changes: dict[str, Any], reason: str
) -> None:
    rankings = write_lines(tmp_path / "r.jsonl", ranking_of(), ranking_of(**changes))
    with pytest.raises(DataError, match=rf"r\.jsonl:2: .*{reason}"):
        read_mmdocir_training(page_files, rankings, skip_limit=0)
    assert len(read_mmdocir_training(page_files, rankings, skip_limit=1)) == 1


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path, page_files: list[Path]) -> None:
    record = ranking_of(
        doc_name="mirrors", candidate_page_ids=[0, 1], openai_ranking=[0, 1], ranked_page_ids=[0, 1], gt_page_ids=[]
    )
    rankings = write_lines(tmp_path / "r.jsonl", record)
    with pytest.raises(DataError, match="no page file holds page 1 of mirrors"):
        read_mmdocir_training(page_files, rankings, skip_limit=0)
    images = read_mmdocir_training(page_files, write_lines(tmp_path / "s.jsonl", ranking_of()), skip_limit=0)[0].pages[
        0
    ]
    assert isinstance(images, StoredPage)
    with pytest.raises(DataError, match=r"DUDE_filter\.parquet: the image in row 5 cannot be decoded"):
        StoredPage(images=images.images, row=5)()


@pytest.mark.parametrize("count", [1, 21])
def test_an_impossible_number_of_candidates_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(DataError, match=f"max_candidates is {count}; it must be 2 to 20"):
        read_mmdocir_training([], tmp_path / "r.jsonl", skip_limit=0, max_candidates=count)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """`one` has rows 0 to 2, `two` rows 3 to 6. Shades are the rows."""
    path = tmp_path / "pages.parquet"
    names = ["one.pdf"] * 3 + ["two.pdf"] * 4
    table = {
        "doc_name": names,
        "domain": ["x"] * 7,
        "passage_id": list("9876543"),
        "image_binary": list(map(picture, range(7))),
    }
    pq.write_table(pa.table(table), path)
    return path


def annotations(folder: Path, **changes: Any) -> Path:
    """The second document's line, with changes."""
    question = {"Q": "Where?", "A": "There", "page_id": [1], "type": "['Chart']", "layout_mapping": []}
    first = {
        "doc_name": "one.pdf",
        "domain": "News",
        "page_indices": [0, 2],
        "layout_indices": [0, 9],
        "questions": [question],
    }
    second = {
        "doc_name": "two.pdf",
        "domain": "Laws",
        "page_indices": [3, 6],
        "questions": [question, {**question, "page_id": [0, 3]}],
    }
    return write_lines(folder / "a.jsonl", first, {**second, **changes})


def test_without_a_first_stage_all_pages_of_the_document_are_candidates(tmp_path: Path, pages: Path) -> None:
    first, _, last = read_mmdocir_evaluation(pages, annotations(tmp_path), skip_limit=0)
    assert (first.id, first.query, first.domain, first.page_ids) == ("one.pdf_0", "Where?", "News", ("0", "1", "2"))
    assert (last.id, last.domain, last.page_ids) == ("two.pdf_1", "Laws", ("0", "1", "2", "3"))
    assert last.relevant == frozenset({"0", "3"})
    assert shades(last.pages) == [(row,) * 3 for row in (3, 4, 5, 6)]


def test_the_first_stage_says_which_pages_in_which_order(tmp_path: Path, pages: Path) -> None:
    orders = write_lines(
        tmp_path / "f.jsonl",
        {"question_id": "two.pdf_1", "page_ids": [2, 0, 3]},
        {"question_id": "one.pdf_0", "page_ids": ["2"]},
        {"question_id": "two.pdf_0", "page_ids": [1, 2, 3, 0]},
    )
    questions = read_mmdocir_evaluation(pages, annotations(tmp_path), orders, skip_limit=0, max_candidates=2)
    assert [question.page_ids for question in questions] == [("2",), ("1", "2"), ("2", "0")]
    assert questions[0].relevant == frozenset({"1"})  # no candidate, and a ground truth all the same
    assert shades(questions[2].pages) == [(5, 5, 5), (3, 3, 3)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"page_indices": [3, 7]}, "first and last of the rows 0 to 6"),
        ({"page_indices": [3]}, "first and last of the rows 0 to 6"),
        ({"page_indices": [2, 6]}, "some rows from 2 to 6 belong to another document than two.pdf"),
        ({"domain": None}, "`domain` must be a text"),
        ({"questions": ["Where?"]}, "question two.pdf_0 is not a JSON object"),
        ({"questions": [{"Q": "Where?", "page_id": []}]}, "names no page that answers it"),
        ({"questions": [{"Q": "Where?", "page_id": [4]}]}, "names page 4; the document has the pages 0 to 3"),
        ({"questions": [{"Q": "", "page_id": [1]}]}, "`Q` must be a text"),
    ],
)
def test_an_unusable_annotation_is_named_with_its_reason(
    tmp_path: Path, pages: Path, changes: dict[str, Any], reason: str
) -> None:
    path = annotations(tmp_path, **changes)
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{reason}"):
        read_mmdocir_evaluation(pages, path, skip_limit=0)
    assert [question.id for question in read_mmdocir_evaluation(pages, path, skip_limit=1)] == ["one.pdf_0"]


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        ({"one.pdf_0": [0], "two.pdf_0": [0]}, r"a\.jsonl:2: the first stage has no order for question two\.pdf_1"),
        ({"one.pdf_0": [3], "two.pdf_0": [0], "two.pdf_1": [0]}, r"a\.jsonl:1: question one\.pdf_0 names page 3"),
        ({"one.pdf_0": [], "two.pdf_0": [0], "two.pdf_1": [0]}, r"f\.jsonl:1: .*at least one page"),
        ({"x": [0], "one.pdf_0": [0], "two.pdf_0": [0], "two.pdf_1": [0]}, r"f\.jsonl:1: no usable question is called x"),
    ],
)  # fmt: skip
def test_a_first_stage_that_does_not_fit_is_named_with_its_reason(
    tmp_path: Path, pages: Path, orders: dict[str, list[int]], reason: str
) -> None:
    path = write_lines(tmp_path / "f.jsonl", *({"question_id": id, "page_ids": ids} for id, ids in orders.items()))
    with pytest.raises(DataError, match=reason):
        read_mmdocir_evaluation(pages, annotations(tmp_path), path, skip_limit=0)
