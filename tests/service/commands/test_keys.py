"""`ziprerank keys`: a key is shown once, listed by its hash, replaced and removed."""

from pathlib import Path

import pytest

from service.api_keys import hash_of, read_keys
from service.cli import main


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("ZIPRERANK_API_KEYS_FILE", str(path))
    return path


def add(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["keys", "add", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_an_added_key_is_printed_once_and_its_hash_is_in_the_file(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = add(capsys, "search", "--max-pages-per-minute", "600", "--priority", "7")
    [entry] = read_keys(path)
    assert (entry.id, entry.sha256, entry.max_pages_per_minute, entry.priority) == ("search", hash_of(key), 600, 7)
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "search" in listed and entry.sha256[:12] in listed and "max_pages_per_minute 600, priority 7" in listed
    assert key not in listed


def test_a_key_is_replaced_by_a_second_one_of_its_id(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = add(capsys, "search"), add(capsys, "search")
    assert main(["keys", "remove", "search", "--hash", hash_of(old)[:12]]) == 0
    assert [entry.sha256 for entry in read_keys(path)] == [hash_of(new)]
    assert main(["keys", "remove", "search"]) == 0
    assert read_keys(path) == ()


@pytest.mark.parametrize("arguments", [["remove", "search"], ["list"], ["add", "two words"]])
def test_a_failure_is_one_line_and_exit_code_1(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["keys", *arguments]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_file_the_command_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("ZIPRERANK_API_KEYS_FILE", raising=False)
    assert main(["keys", "list"]) == 1
    assert "ZIPRERANK_API_KEYS_FILE" in capsys.readouterr().err
    assert main(["keys", "add", "a", "--file", str(tmp_path / "other.json")]) == 0
