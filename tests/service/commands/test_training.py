"""The commands of training as a user meets them: help, exit codes, and one line for what went wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from tests.documents import make_image
from tests.teacher_endpoint import Answer, reversed_order, says, teacher_endpoint

KEY = "sk-a-key-that-nobody-may-see"
STOP_SECONDS = 300


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def run_without(modules: list[str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process in which these modules are not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({modules})); from service.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=STOP_SECONDS, check=False
    )


def label_command(folder: Path, url: str = "http://127.0.0.1:9/v1") -> list[str]:
    """Labels one question about two pages."""
    (folder / "pages" / "report").mkdir(parents=True)
    for number in range(2):
        (folder / "pages" / "report" / f"{number}.png").write_bytes(make_image(8, 8))
    question: dict[str, Any] = {
        "query_id": 1, "query": "q", "doc_name": "report", "domain": "d", "candidate_page_ids": [0, 1], "gt_page_ids": []
    }  # fmt: skip
    (folder / "in.jsonl").write_text(json.dumps(question) + "\n")
    files = ["--questions", f"{folder}/in.jsonl", "--pages", f"{folder}/pages", "--output", f"{folder}/out.jsonl"]
    return ["label", *files, "--base-url", url, "--model", "m", "--requests-per-minute", "60000"]


@pytest.mark.parametrize(
    "arguments", [("serve",), ("train",), ("train", "stage1"), ("train", "stage2"), ("label",), ()]
)
def test_help_needs_neither_torch_nor_the_extra(arguments: tuple[str, ...]) -> None:
    done = run_without(["torch", "accelerate", "openai", "pyarrow", "tensorboard", "tqdm"], *arguments, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ziprerank")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "stage1"), "RankZephyr"),
        (("train", "stage2"), "ziprerank train stage2 my-run.toml --set"),
        (("label",), '"openai_ranking": [1, 0, 2]'),
    ],
)
def test_help_says_what_goes_in_and_what_comes_out(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "Input:" in printed and "Output:" in printed and "examples:" in printed and said in printed


def test_a_missing_extra_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    done = run_without(["openai"], *label_command(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "ziprerank: the package openai is missing. Install it: pip install 'ziprerank[train]'\n"
    )  # fmt: skip


def label(folder: Path, answer: Answer, *flags: str) -> int:
    with teacher_endpoint(answer) as endpoint:
        return main([*label_command(folder, endpoint.url), *flags])


def test_labelling_ends_with_a_summary_and_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(tmp_path, reversed_order, "--price-in", "1", "--price-out", "2") == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "1 labelled, 0 failed, 0 labelled before, 0 left; 1,000 tokens in, 10 out, cost 0.0010\n"
    )  # fmt: skip
    assert "cost 0.0010" in printed.err  # beside the progress bar
    assert json.loads((tmp_path / "out.jsonl").read_text())["ranked_page_ids"] == [1, 0]


def test_labelling_with_failures_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(tmp_path, lambda asked: says("hm"), "--asks", "1") == 1
    printed = capsys.readouterr()
    assert "0 labelled, 1 failed" in printed.out
    assert "question d/1 failed: The answer is 'hm'" in printed.err
    assert KEY not in printed.out + printed.err


def test_the_error_for_a_missing_key_names_its_variable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    assert main([*label_command(tmp_path), "--api-key-variable", "MY_KEY"]) == 2
    assert capsys.readouterr().err.startswith("ziprerank: MY_KEY is not set.")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--price-in", "1"), "One of --price-in and --price-out is missing"),
        (("--concurrency", "0"), "concurrency is 0"),
        (("--base-url", "localhost:1"), "must look like https://"),
        (("--pages", "nowhere"), "give one folder that exists"),
    ],
)
def test_what_cannot_work_is_one_line_and_2(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*label_command(tmp_path), *flags]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("ziprerank: ") and said in printed and printed.count("\n") == 1


def test_a_run_file_that_is_missing_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "stage1", str(tmp_path / "missing.toml"), "--set", "training.seed=1"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("ziprerank: ") and "missing.toml" in printed and printed.count("\n") == 1


def test_the_demos_own_parser_reads_what_follows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "demo", "--help"])
    assert end.value.code == 0
    assert "Input:" not in capsys.readouterr().out  # not the help of stage 1 or 2
