import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.training.errors import DataError
from model.training.examples import OpenPage
from model.training.label_files import append_line, failures_path, labelled, open_output, read_questions


class AnyPages:
    """Has every page but those of the document `lost`."""

    def find(self, doc_name: str, page_id: str, *, domain: str) -> OpenPage:
        if doc_name == "lost":
            raise DataError(f"there is no page {page_id}")
        return lambda: Image.new("RGB", (2, 2))


def record(**changes: Any) -> dict[str, Any]:
    fields = {
        "query_id": 7, "query": "net income", "doc_name": "report", "domain": "finance",
        "candidate_page_ids": [3, 8, 1], "gt_page_ids": [8], "note": "kept",
    }  # fmt: skip
    return {**fields, **changes}


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_labelled_line_is_the_question_with_the_order_as_places_and_as_ids(tmp_path: Path) -> None:
    (question,) = read_questions(write(tmp_path / "in.jsonl", record()), AnyPages(), skip_limit=0)
    assert question.key == ("finance", "7")
    assert len(question.pages) == 3
    assert labelled(question, (1, 2, 0)) == {
        **record(), "openai_ranking": [1, 2, 0], "ranked_page_ids": [8, 1, 3]
    }  # fmt: skip


def test_query_ids_may_repeat_between_domains(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", record(), record(domain="law"))
    assert [question.key for question in read_questions(path, AnyPages(), skip_limit=0)] == [
        ("finance", "7"), ("law", "7")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query_id": None}, "`query_id` must be a whole number or a text"),
        ({"query": " "}, "`query` must be a text"),
        ({"query": "\ud800"}, "lone surrogate"),
        ({"domain": 3}, "`domain` must be a text"),
        ({"candidate_page_ids": [1]}, "holds 1 pages; it must be 2 to 20"),
        ({"candidate_page_ids": list(range(21))}, "holds 21 pages; it must be 2 to 20"),
        ({"candidate_page_ids": [1, "1"]}, "names a page twice"),
        ({"gt_page_ids": None}, "`gt_page_ids` must be a list"),
        ({"doc_name": "lost"}, "there is no page 3"),
    ],
)
def test_an_unusable_question_is_told_with_file_and_line_before_anything_is_asked(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "in.jsonl", record(query_id=1), record(**changes))
    with pytest.raises(DataError) as error:
        read_questions(path, AnyPages(), skip_limit=0)
    assert f"in.jsonl:2: {said}" in str(error.value) or (":2:" in str(error.value) and said in str(error.value))
    assert len(read_questions(path, AnyPages(), skip_limit=1)) == 1


def test_a_question_that_stands_twice_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", record(), record(query_id="7"))
    with pytest.raises(DataError, match="question finance/7 is in the file twice"):
        read_questions(path, AnyPages(), skip_limit=0)


def test_a_torn_last_line_is_cut_off_and_the_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    append_line(path, record(query_id=1, query="größer"))
    append_line(path, record(query_id=2))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 3])
    assert open_output(path) == {("finance", "1"), ("finance", "2")}
    assert path.read_bytes() == whole


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"query_id": 1, "que')
    assert open_output(path) == frozenset()
    assert path.read_bytes() == b""


def test_a_new_output_is_made_before_anything_is_asked(tmp_path: Path) -> None:
    assert open_output(tmp_path / "out.jsonl") == frozenset()
    assert (tmp_path / "out.jsonl").exists()
    with pytest.raises(DataError, match="Does its folder exist"):
        open_output(tmp_path / "missing" / "out.jsonl")


def test_an_output_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("a letter to a friend\n")
    with pytest.raises(DataError, match=r"out\.jsonl:1: it is not a JSON object"):
        open_output(path)
    assert path.read_text() == "a letter to a friend\n"


def test_failures_lie_beside_the_output(tmp_path: Path) -> None:
    assert failures_path(tmp_path / "labels.jsonl") == tmp_path / "labels.failed.jsonl"
