"""Labelling against a real server: what is asked, what is kept, and what it costs."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.training import label
from model.training.errors import RefusedError, TeacherError, TrainingError
from model.training.label import LabelJob, LabelSummary, run_label
from model.training.mmdocir import read_mmdocir_training
from model.training.rate_limit import RateLimit
from model.training.spending import Prices
from model.training.teacher import TeacherConfig
from tests.documents import make_image
from tests.patience import eventually
from tests.teacher_endpoint import Question, Reply, refuses, reversed_order, says, teacher_endpoint

KEY = "sk-a-key-that-nobody-may-see"
STOP_SECONDS = 300


class Desk:
    """A folder with questions about three pages, and where the answers go."""

    def __init__(self, folder: Path, *, questions: int) -> None:
        self.folder = folder
        self.questions = folder / "questions.jsonl"
        self.pages = folder / "pages"
        self.output = folder / "labels.jsonl"
        self.failures = folder / "labels.failed.jsonl"
        (self.pages / "report").mkdir(parents=True)
        for number in range(3):
            (self.pages / "report" / f"{number}.png").write_bytes(make_image(8, 8))
        self.questions.write_text("".join(json.dumps(question(number)) + "\n" for number in range(questions)))

    def run(self, url: str, **changes: Any) -> LabelSummary:
        return run_label(self.job(url, **changes))

    def job(self, url: str, **changes: Any) -> LabelJob:
        values: dict[str, Any] = {
            "questions": self.questions, "pages": (self.pages,), "output": self.output,
            "teacher": TeacherConfig(base_url=url, model="teacher", api_key=KEY), "requests_per_minute": 60_000,
        }  # fmt: skip
        return LabelJob(**{**values, **changes})

    def labels(self) -> list[dict[str, Any]]:
        return read_lines(self.output)


def question(number: int) -> dict[str, Any]:
    return {
        "query_id": number, "query": f"query {number}", "doc_name": "report", "domain": "finance",
        "candidate_page_ids": [2, 0, 1], "gt_page_ids": [0],
    }  # fmt: skip


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def garbage_for(query: str) -> Any:
    return lambda asked: says("I cannot tell.") if asked.query == query else reversed_order(asked)


def test_every_question_is_asked_once_and_its_line_is_kept(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=3)
    with teacher_endpoint() as endpoint:
        summary = desk.run(endpoint.url, prices=Prices(prompt=2.0, completion=8.0))
    assert sorted(asked.query for asked in endpoint.questions) == ["query 0", "query 1", "query 2"]
    labels = sorted(desk.labels(), key=lambda label: label["query_id"])
    assert labels == [
        {**question(number), "openai_ranking": [2, 1, 0], "ranked_page_ids": [1, 0, 2]} for number in range(3)
    ]
    assert not desk.failures.exists()
    # 3,000 tokens in at 2 a million, 30 out at 8 a million
    assert str(summary) == (
        "3 labelled, 0 failed, 0 labelled before, 0 left; 3,000 tokens in, 30 out, cost 0.0062"
    )  # fmt: skip


def test_the_training_reader_reads_what_was_labelled(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=2)
    pages = tmp_path / "finance_filter.parquet"
    rows = {"file_name": ["report"] * 3, "page": [0, 1, 2], "image": [make_image(8, 8)] * 3}
    pq.write_table(pa.table(rows), pages)
    with teacher_endpoint() as endpoint:
        desk.run(endpoint.url, pages=(pages,))
    examples = read_mmdocir_training([pages], desk.output, skip_limit=0)
    assert [example.ranking for example in examples] == [(2, 1, 0)] * 2
    assert [example.page_ids for example in examples] == [("2", "0", "1")] * 2
    assert [example.relevant for example in examples] == [{1}] * 2


def test_a_second_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=4)
    with teacher_endpoint() as endpoint:
        assert desk.run(endpoint.url, limit=3).left == 1
        summary = desk.run(endpoint.url)
        assert (summary.earlier, summary.labelled, summary.left) == (3, 1, 0)
        assert desk.run(endpoint.url).labelled == 0
    assert len(endpoint.questions) == 4
    assert len(desk.labels()) == 4


def test_what_fails_is_told_with_the_reason_and_asked_again_next_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=3)
    with teacher_endpoint(garbage_for("query 1")) as endpoint:
        summary = desk.run(endpoint.url)
    assert (summary.labelled, summary.failed) == (2, 1)
    assert summary.spending.prompt_tokens == 5_000  # two answers, and three that could not be read
    (failure,) = read_lines(desk.failures)
    reason = failure.pop("reason")
    assert failure == question(1)
    assert "'I cannot tell' is no identifier" in reason
    with teacher_endpoint() as endpoint:
        assert desk.run(endpoint.url).labelled == 1
    assert [asked.query for asked in endpoint.questions] == ["query 1"]
    assert not desk.failures.exists()


def test_a_page_that_cannot_be_read_fails_its_own_question_only(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=2)
    torn = desk.pages / "torn"
    torn.mkdir()
    (torn / "0.png").write_bytes(make_image()[:40])
    (torn / "1.png").write_bytes(make_image())
    with desk.questions.open("a") as file:
        file.write(json.dumps({**question(9), "doc_name": "torn", "candidate_page_ids": [0, 1]}) + "\n")
    with teacher_endpoint() as endpoint:
        summary = desk.run(endpoint.url)
    assert (summary.labelled, summary.failed) == (2, 1)
    assert "cannot be read as an image" in read_lines(desk.failures)[0]["reason"]
    assert len(endpoint.questions) == 2


def test_slow_answers_are_waited_for_side_by_side_up_to_the_limit(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=6)
    all_there = threading.Barrier(3)

    def answer(asked: Question) -> Reply:
        all_there.wait(STOP_SECONDS)  # passes when three are here at once
        return reversed_order(asked)

    with teacher_endpoint(answer) as endpoint:
        assert desk.run(endpoint.url, concurrency=3).labelled == 6
    assert endpoint.most_at_once == 3


def test_the_rate_limit_counts_repeated_requests_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, questions=5)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(label, "RateLimit", partial(RateLimit, clock=lambda: 0.0, sleep=sleep))  # time stands still

    def answer(asked: Question) -> Reply:
        return refuses(429, headers={"Retry-After": "0.01"}) if asked.number <= 3 else reversed_order(asked)

    with teacher_endpoint(answer) as endpoint:
        assert desk.run(endpoint.url, requests_per_minute=1_200).labelled == 5  # one every 50 ms
    assert len(endpoint.questions) == 8
    assert slept == pytest.approx([0.05 * place for place in range(1, 8)])


def test_a_wrong_key_stops_the_run_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=50)
    reply = refuses(401, f"bad key {KEY}")
    with teacher_endpoint(lambda asked: reply) as endpoint, pytest.raises(RefusedError, match="answered 401"):
        desk.run(endpoint.url, concurrency=2)
    assert len(endpoint.questions) <= 2
    assert desk.output.read_text() == "" and not desk.failures.exists()


def test_twenty_failures_in_a_row_stop_the_run(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=40)
    said = "20 questions in a row failed, the last because: The answer is 'no'"
    with teacher_endpoint(lambda asked: says("no")) as endpoint, pytest.raises(TeacherError, match=said):
        desk.run(endpoint.url, concurrency=1)
    assert len(endpoint.questions) == 60  # each was asked three times
    assert len(read_lines(desk.failures)) == 20


def test_a_killed_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=9)
    may_answer = threading.Event()

    def four_then_none(asked: Question) -> Reply:
        if asked.number > 4:
            may_answer.wait(STOP_SECONDS)
        return reversed_order(asked)

    with teacher_endpoint(four_then_none) as endpoint:
        process = start_process(desk, endpoint.url, "--concurrency", "2")
        try:
            eventually(lambda: len(endpoint.questions) == 6 and len(desk.labels()) == 4)
        finally:
            process.send_signal(signal.SIGKILL)
            told = process.communicate(timeout=STOP_SECONDS)
            may_answer.set()
        with desk.output.open("a") as file:
            file.write('{"query_id": 8, "query": "que')  # as a kill within a write would leave it
        summary = desk.run(endpoint.url)
    assert process.returncode == -signal.SIGKILL
    assert (summary.earlier, summary.labelled, summary.failed) == (4, 5, 0)
    assert sorted(label["query_id"] for label in desk.labels()) == list(range(9))
    assert (
        sum(endpoint.count(f"query {number}") for number in range(9)) == 11
    )  # two were on their way when it was killed
    kept = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert KEY not in "".join(told) + kept


def test_ctrl_c_keeps_what_was_answered_and_says_how_to_go_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, questions=3)
    is_over = threading.Event()

    def one_then_none(asked: Question) -> Reply:
        if asked.number > 1:
            is_over.wait(STOP_SECONDS)
        return reversed_order(asked)

    with teacher_endpoint(one_then_none) as endpoint:
        process = start_process(desk, endpoint.url, "--concurrency", "1")
        try:
            eventually(lambda: len(endpoint.questions) == 2)
        finally:
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=STOP_SECONDS)
            is_over.set()
    assert process.returncode == 130
    assert "stopped: 1,000 tokens in, 10 out" in told
    assert told.endswith("ziprerank: stopped. Run the same command again to resume.\n")
    assert len(desk.labels()) == 1


def start_process(desk: Desk, url: str, *flags: str) -> "subprocess.Popen[str]":
    command = ["--questions", str(desk.questions), "--pages", str(desk.pages), "--output", str(desk.output)]
    command += ["--base-url", url, "--model", "teacher", "--requests-per-minute", "60000", *flags]
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from service.cli import main; sys.exit(main())", "label", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": KEY},
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"concurrency": 0}, "concurrency is 0; it must be above 0"),
        ({"requests_per_minute": float("nan")}, "requests_per_minute is nan"),
        ({"limit": 0}, "limit is 0"),
        ({"prices": Prices(prompt=-1.0, completion=0.0)}, "The prices are -1.0 and 0.0"),
        ({"output": Path("q.jsonl"), "questions": Path("q.jsonl")}, "is both the input and an output"),
        ({"output": Path("q.jsonl"), "questions": Path("q.failed.jsonl")}, "is both the input and an output"),
    ],
)
def test_impossible_jobs_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Desk(tmp_path, questions=1).job("http://127.0.0.1/v1", **changes)
