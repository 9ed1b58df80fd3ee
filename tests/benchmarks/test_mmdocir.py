"""Recall and its averages by hand; then the benchmark itself on a made-up set of three domains in the published layout."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import results_file
from benchmarks.mmdocir.__main__ import evaluate, main
from benchmarks.mmdocir.rankers import through_library, through_service
from benchmarks.mmdocir.recall import Answer, as_table, recall_at, summarise
from model import Reranker, RerankerConfig
from model.pages.text_renderer import render_text
from model.training.examples import DocumentQuestion
from model.training.mmdocir import read_mmdocir_evaluation
from tests.servers import running_service

DOCUMENTS = {"tides.pdf": ("Laws", 6), "mirrors.pdf": ("News", 4), "sensors.pdf": ("Academic paper", 5)}
QUESTIONS = {
    "tides.pdf": [("How high is the tide?", [2]), ("Which years are compared?", [0, 5])],
    "mirrors.pdf": [("How is the mirror cleaned?", [3])],
    "sensors.pdf": [("Which sensor failed?", [1, 2, 4])],
}
FIRST_STAGE = {
    "tides.pdf_0": [4, 2, 0, 1, 3, 5],
    "tides.pdf_1": [0, 1, 2, 3, 4, 5],
    "mirrors.pdf_0": [3, 0, 1, 2],
    "sensors.pdf_0": [0, 1, 3, 2, 4],
}

# Worked out by hand: shares of the relevant pages in the first 1, 3 and 5.
#   tides 0    relevant 2        0     1    1
#   tides 1    relevant 0 5      1/2   1/2  1/2
#   mirrors 0  relevant 3        1     1    1
#   sensors 0  relevant 1 2 4    0     1/3  1
LAWS = {"1": 1 / 4, "3": 3 / 4, "5": 3 / 4}
NEWS = {"1": 1.0, "3": 1.0, "5": 1.0}
ACADEMIC = {"1": 0.0, "3": 1 / 3, "5": 1.0}
MACRO = {"1": (1 / 4 + 1 + 0) / 3, "3": (3 / 4 + 1 + 1 / 3) / 3, "5": (3 / 4 + 1 + 1) / 3}
MICRO = {"1": (0 + 1 / 2 + 1 + 0) / 4, "3": (1 + 1 / 2 + 1 + 1 / 3) / 4, "5": (1 + 1 / 2 + 1 + 1) / 4}


def jpeg(text: str) -> bytes:
    buffer = io.BytesIO()
    page: Image.Image = render_text(text, width=96, height=128)
    page.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options that name the three files."""
    folder = tmp_path_factory.mktemp("mmdocir")
    rows = [(name, domain, page) for name, (domain, count) in DOCUMENTS.items() for page in range(count)]
    table = {
        "doc_name": [name for name, _, _ in rows],
        "domain": [domain for _, domain, _ in rows],
        "passage_id": [str(page) for _, _, page in rows],
        "image_path": [f"page_images/{name}_{page}.jpg" for name, _, page in rows],
        "image_binary": [jpeg(f"{name} page {page}") for name, _, page in rows],
        "ocr_text": [""] * len(rows),
        "vlm_text": [""] * len(rows),
    }
    pq.write_table(pa.table(table), folder / "pages.parquet")
    starts = {"tides.pdf": 0, "mirrors.pdf": 6, "sensors.pdf": 10}
    annotations = [
        {
            "doc_name": name,
            "domain": domain,
            "page_indices": [starts[name], starts[name] + count - 1],
            "layout_indices": [0, 0],
            "questions": [
                {"Q": query, "A": "", "page_id": pages, "type": "['Table']", "layout_mapping": []}
                for query, pages in QUESTIONS[name]
            ],
        }
        for name, (domain, count) in DOCUMENTS.items()
    ]
    orders = [{"question_id": id, "page_ids": pages} for id, pages in FIRST_STAGE.items()]
    (folder / "annotations.jsonl").write_text("\n".join(map(json.dumps, annotations)))
    (folder / "first_stage.jsonl").write_text("\n".join(map(json.dumps, orders)))
    return {
        "--pages": str(folder / "pages.parquet"),
        "--annotations": str(folder / "annotations.jsonl"),
        "--first-stage": str(folder / "first_stage.jsonl"),
    }


@pytest.fixture(scope="module")
def questions(files: dict[str, str]) -> tuple[DocumentQuestion, ...]:
    pages, annotations, first_stage = map(Path, files.values())
    return read_mmdocir_evaluation(pages, annotations, first_stage, skip_limit=0, max_candidates=20)


@pytest.fixture(scope="module")
def demo() -> Reranker:
    return Reranker.from_checkpoint("demo", RerankerConfig(device="cpu", dtype="float32"))


def flat(files: dict[str, str]) -> list[str]:
    return [part for option in files.items() for part in option]


def test_recall_is_the_share_of_relevant_pages_in_the_first_k() -> None:
    order, relevant = ("c", "a", "d", "b"), frozenset("ab")
    assert [recall_at(cut, order, relevant) for cut in (1, 2, 3, 4)] == [0, 0.5, 0.5, 1]
    assert recall_at(5, order, frozenset("abxy")) == 0.5  # pages that are no candidates are never found
    assert recall_at(1, order, frozenset("ca")) == 0.5


def test_the_first_stage_s_own_numbers_are_those_worked_out_by_hand(questions: Sequence[DocumentQuestion]) -> None:
    summary = summarise(evaluate(questions, lambda question: range(len(question.pages))))
    assert {name: group["questions"] for name, group in summary["domains"].items()} == {
        "Academic paper": 1,
        "Laws": 2,
        "News": 1,
    }
    for stage in ("first_stage", "reranked"):  # a ranker that changes nothing
        assert summary["domains"]["Laws"][stage] == pytest.approx(LAWS)
        assert summary["domains"]["News"][stage] == pytest.approx(NEWS)
        assert summary["domains"]["Academic paper"][stage] == pytest.approx(ACADEMIC)
        assert summary["macro"][stage] == pytest.approx(MACRO)
        assert summary["micro"][stage] == pytest.approx(MICRO)


def test_a_ranker_that_reverses_the_order_has_numbers_of_its_own(questions: Sequence[DocumentQuestion]) -> None:
    summary = summarise(evaluate(questions, lambda question: range(len(question.pages))[::-1]))
    # reversed: tides 5 3 1 0 2 4 and 5 4 3 2 1 0; mirrors 2 1 0 3; sensors 4 2 3 1 0
    assert summary["domains"]["Laws"]["reranked"] == pytest.approx({"1": (0 + 0.5) / 2, "3": (0 + 0.5) / 2, "5": 0.75})
    assert summary["domains"]["News"]["reranked"] == pytest.approx({"1": 0, "3": 0, "5": 1})
    assert summary["domains"]["Academic paper"]["reranked"] == pytest.approx({"1": 1 / 3, "3": 2 / 3, "5": 1})
    assert summary["micro"]["first_stage"] == pytest.approx(MICRO)


def test_the_table_has_the_reranker_s_number_and_the_first_stage_s_in_brackets() -> None:
    answers = [
        Answer(domain="News", relevant=frozenset("a"), first_stage=("b", "a"), reranked=("a", "b")),
        Answer(domain="Laws", relevant=frozenset("a"), first_stage=("b", "c"), reranked=("c", "b")),
        Answer(domain="Laws", relevant=frozenset("a"), first_stage=("a", "b"), reranked=("a", "b")),
    ]
    assert as_table(summarise(answers)).splitlines() == [
        "| domain | questions | recall@1 | recall@3 | recall@5 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| Laws | 2 | 50.0 (50.0) | 50.0 (50.0) | 50.0 (50.0) |",
        "| News | 1 | 100.0 (0.0) | 100.0 (100.0) | 100.0 (100.0) |",
        "| **macro** | 3 | 75.0 (25.0) | 75.0 (75.0) | 75.0 (75.0) |",
        "| **micro** | 3 | 66.7 (33.3) | 66.7 (66.7) | 66.7 (66.7) |",
    ]


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_library_and_service_give_the_same_orders(
    questions: Sequence[DocumentQuestion], demo: Reranker, keep_ratio: float
) -> None:
    library = evaluate(questions, through_library(demo, keep_ratio=keep_ratio))
    for question, answer in zip(questions, library, strict=True):
        expected = demo.rank(question.query, [page() for page in question.pages], keep_ratio)
        assert answer.reranked == tuple(question.page_ids[index] for index in expected.order)
    # Over the same weights: others, loaded elsewhere in memory, may round differently and swap pages that are nearly equal.
    with (
        running_service(lambda settings: demo) as service,
        through_service(service.url, keep_ratio=keep_ratio) as rank,
    ):
        assert evaluate(questions, rank) == library


def test_pages_that_are_no_stored_ones_are_sent_as_png(questions: Sequence[DocumentQuestion]) -> None:
    drawn = DocumentQuestion(
        id="x",
        query="tide",
        domain="Laws",
        pages=tuple(lambda text=text: render_text(text, width=64, height=64) for text in ("tide", "mirror")),  # type: ignore[misc]
        page_ids=("0", "1"),
        relevant=frozenset({"0"}),
    )
    with running_service() as service, through_service(service.url, keep_ratio=1.0) as rank:
        assert sorted(rank(drawn)) == [0, 1]


def test_the_whole_set_is_kept_with_its_workload(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results_file, "FOLDER", tmp_path)
    main([*flat(files), "--model", "demo", "--device", "cpu", "--keep-ratio", "0.5"])
    [path] = tmp_path.iterdir()
    kept = json.loads(path.read_text())["results"]
    assert re.fullmatch(r"mmdocir_\w+_0_5\.json", path.name)
    assert kept["workload"] == {
        "model": "demo", "path": "library", "keep_ratio": 0.5, "candidates": 20, "first_stage": "given",
    }  # fmt: skip
    assert kept["micro"]["first_stage"] == pytest.approx(MICRO)
    assert "| **micro** | 4 |" in capsys.readouterr().out


def test_a_trial_prints_its_results_and_keeps_nothing(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results_file, "FOLDER", tmp_path)
    with running_service() as service:
        main([*flat(files), "--url", service.url, "--limit", "2", "--candidates", "3"])
    results: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (results["workload"]["path"], results["micro"]["questions"]) == ("service", 2)
    assert results["micro"]["first_stage"]["5"] == pytest.approx((1 + 1 / 2) / 2)
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_is_not_there_is_said_in_one_line(files: dict[str, str]) -> None:
    with pytest.raises(SystemExit, match=r"127\.0\.0\.1:1/info gave no answer \(ConnectError\)"):
        main([*flat(files), "--url", "http://127.0.0.1:1"])


def test_a_refusal_of_the_service_is_passed_on(questions: Sequence[DocumentQuestion]) -> None:
    refused = pytest.raises(SystemExit, match=r"refused question tides\.pdf_0 with 4\d\d: .*at most 3")
    with running_service(max_pages=3) as service, through_service(service.url, keep_ratio=1.0) as rank, refused:
        rank(questions[0])


def test_a_file_that_does_not_fit_is_said_in_one_line(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}")
    with pytest.raises(SystemExit, match=r"bad\.jsonl:1: `doc_name` must be a text"):
        main([*flat({**files, "--annotations": str(tmp_path / "bad.jsonl")}), "--model", "demo"])
