import gzip
import logging
from pathlib import Path
from typing import Any

import pytest

from model.training.data_files import SkipLog, UnusableRecordError, page_ids_field, read_records, text_field
from model.training.errors import DataError


def write(folder: Path, content: str, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def read(path: Path, limit: int = 0) -> list[tuple[int, dict[str, Any]]]:
    return list(read_records(path, SkipLog(path, limit)))


def test_json_lines_come_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": 1}\n\n  \n{"a": "é"}\n{"a": 3}')
    assert read(path) == [(1, {"a": 1}), (4, {"a": "é"}), (5, {"a": 3})]


def test_a_json_list_comes_with_the_line_on_which_each_record_begins(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff\n [{"a": 1},\n\n {\n"a": [2, "]"]\n} , {"a": 3}\n]\n', "data.json")
    assert read(path) == [(2, {"a": 1}), (4, {"a": [2, "]"]}), (6, {"a": 3})]


def test_an_empty_list_and_an_empty_file_hold_no_records(tmp_path: Path) -> None:
    assert read(write(tmp_path, "[]", "list.json")) == read(write(tmp_path, "", "lines.jsonl")) == []


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert read(path) == [(1, {"a": 1}), (2, {"a": 2})]


def test_lines_that_are_no_objects_are_skipped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, '{"a": 1}\n{"a": \n[1]\n{"a": 4}\n')
    skips = SkipLog(path, 2)
    assert [line for line, _ in read_records(path, skips)] == [1, 4]
    assert skips.skipped == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:2: skipped: it is not a JSON object",
        f"{path}:3: skipped: it is not a JSON object",
    ]


def test_bytes_that_are_no_text_spoil_their_line_only(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n{"a": 2}\n')
    assert read(path, limit=1) == [(2, {"a": 2})]


def test_one_more_than_the_limit_ends_the_reading_and_says_why(tmp_path: Path) -> None:
    path = write(tmp_path, "1\n2\n3\n")
    with pytest.raises(DataError, match=r"data\.jsonl:3: it is not a JSON object\. 3 records .* the limit is 2\."):
        read(path, limit=2)


def test_a_broken_list_says_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.json:2: the JSON list is malformed here"):
        read(write(tmp_path, '[{"a": 1},\n {"a": }]', "data.json"))
    with pytest.raises(DataError, match=r"cut\.json:1: the JSON list is malformed here"):
        read(write(tmp_path, '[{"a": 1}', "cut.json"))


def test_a_file_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read: FileNotFoundError"):
        read(tmp_path / "none.jsonl")


def test_a_damaged_archive_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "data.json.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-12])
    with pytest.raises(DataError, match="cannot be read: EOFError"):
        read(path)


def test_an_unusable_record_is_skipped_where_it_stands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skips = SkipLog(tmp_path / "x.jsonl", 1)

    def use_record() -> None:
        raise UnusableRecordError("it is blue")

    with skips.at(7):
        use_record()
    assert caplog.messages == [f"{tmp_path / 'x.jsonl'}:7: skipped: it is blue"]


def test_the_end_says_how_many_were_used_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    skips = SkipLog(tmp_path / "x.jsonl", 5)
    skips.finish(used=3)
    skips.skip(1, "it is blue")
    skips.finish(used=2)
    assert [(record.levelname, record.getMessage().partition(": ")[2]) for record in caplog.records] == [
        ("INFO", "3 records used, 0 skipped"),
        ("WARNING", caplog.messages[1].partition(": ")[2]),
        ("WARNING", "2 records used, 1 skipped"),
    ]


def test_a_file_without_any_usable_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record can be used; 0 were skipped"):
        SkipLog(tmp_path / "x.jsonl", 5).finish(used=0)


def test_fields_are_checked() -> None:
    assert text_field({"a": " b "}, "a") == " b "
    assert page_ids_field({"p": [3, "x"]}, "p") == ("3", "x")
    for record in ({}, {"a": 1}, {"a": "  "}):
        with pytest.raises(UnusableRecordError, match="`a` must be a text"):
            text_field(record, "a")
    for pages, said in (("3", "a list"), ([1.5], "whole numbers"), ([True], "whole numbers"), ([3, "3"], "twice")):
        with pytest.raises(UnusableRecordError, match=said):
            page_ids_field({"p": pages}, "p")
