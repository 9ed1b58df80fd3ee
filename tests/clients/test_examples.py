"""The examples, each as it stands, in the environment of its family where it needs packages, against a service."""

import ast
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pymupdf
import pytest
from PIL import Image

from service.commands.demo import PDF
from tests.clients.conftest import KEY, REGISTERED, RankingService
from tests.clients.environments import TIE, interpreter, isolated
from tests.patience import PATIENCE_SECONDS, wait_until_ready
from tests.processes import listening_url, process

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"
CALENDAR = PROJECT / "tests" / "data" / "club-calendar.pdf"
PAGES = 12
ALL_PAGES = range(1, PAGES + 1)
QUESTION = "Which page is about the weather?"
RIGHT_PAGE = 8  # BM25 alone puts page 12 first
FRAMEWORKS = {
    "haystack_component.py": "haystack",
    "langchain_compressor.py": "langchain",
    "llama_index_postprocessor.py": "llama_index",
}
TESTED = {*FRAMEWORKS, "mrag_pipeline.py", "batch_folder.py", "keep_ratio.ipynb"}


def run(
    root: str, python: Path | str, *command: str | Path, folder: Path, returns: int = 0, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    """An example's process, with its home in a folder of the test."""
    done = subprocess.run(
        [str(python), *map(str, command)],
        input=stdin,
        env={**isolated(folder), "ZIPRERANK_URL": root, "ZIPRERANK_KEY": KEY},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == returns, (done.stdout[-500:], done.stderr[-2000:])
    return done


def references(numbers: Iterable[int]) -> list[str]:
    """Pages of the registered town guide."""
    return [f"ziprerank://{REGISTERED}#page={number}" for number in numbers]


def assert_best(service: RankingService, query: str, pages: Sequence[int], candidates: Sequence[int]) -> None:
    """They are the best of the candidates, in the service's order, up to pages that may change places.

    candidates: as the service gets them. Logits depend on their order.
    """
    logits = dict(zip(candidates, service.logits(query, references(candidates)), strict=True))
    assert len(set(pages)) == 3
    for page, logit in zip(pages, sorted(logits.values(), reverse=True), strict=False):
        assert logits[page] == pytest.approx(logit, abs=TIE)


def decoded(data_uri: str) -> bytes:
    kind, _, data = data_uri.partition(";base64,")
    assert kind == "data:image/jpeg"
    return base64.b64decode(data, validate=True)


def test_every_example_is_tested_and_described() -> None:
    files = {file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".ipynb")}
    assert files == TESTED
    page = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"examples/(\w+\.(?:py|ipynb))", page)) == TESTED


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_components_of_frameworks_rank_page_images_and_hand_on_texts(
    service: RankingService, tmp_path: Path, name: str
) -> None:
    done = run(service.root, interpreter(FRAMEWORKS[name]), EXAMPLES / name, QUESTION, PDF, folder=tmp_path)
    found = [re.fullmatch(r"(\d\.\d{4})  town-guide#page=(\d+)  (.+)", line) for line in done.stdout.splitlines()]
    lines = [each.groups() for each in found if each]
    assert len(lines) == 3, done.stdout
    pages = [int(page) for _, page, _ in lines]
    assert pages[0] == RIGHT_PAGE
    if name != "haystack_component.py":  # where a retriever puts the candidates in another order
        assert_best(service, QUESTION, pages, ALL_PAGES)
    with pymupdf.open(PDF) as document:
        for _, page, text in lines:
            assert document[int(page) - 1].get_text().startswith(f"{text}\n")


def found_by_words(query: str, index: Path, folder: Path) -> list[int]:
    """The numbers of the pages that the pipeline's index gives for a query, best first."""
    script = (
        "import sys; sys.path.insert(0, 'examples')\n"
        "from mrag_pipeline import Path, find, open_index\n"
        "print([page['page'] for page in find(sys.argv[1], open_index(Path(sys.argv[2])))])"
    )
    done = run("http://127.0.0.1:9", interpreter("pipeline"), "-c", script, query, index, folder=folder)
    pages: list[int] = json.loads(done.stdout)
    return pages


def test_the_pipeline_finds_ranks_and_fetches_pages(service: RankingService, tmp_path: Path) -> None:
    folders = ("--index", tmp_path / "index", "--found", tmp_path / "found")
    script = (interpreter("pipeline"), EXAMPLES / "mrag_pipeline.py")
    done = run(service.root, *script, QUESTION, PDF, *folders, folder=tmp_path)
    lines = re.findall(r"^(\d\.\d{4})  (\S+), page (\d+)  (\S+)$", done.stdout, re.M)
    assert [file for _, file, _, _ in lines] == [str(PDF)] * 3
    pages = [int(page) for _, _, page, _ in lines]
    assert pages[0] == RIGHT_PAGE
    candidates = found_by_words(QUESTION, tmp_path / "index", tmp_path)
    assert candidates[0] != RIGHT_PAGE
    assert_best(service, QUESTION, pages, candidates)

    [message] = json.loads((tmp_path / "found" / "messages.json").read_text())
    *images, question = message["content"]
    assert QUESTION in question["text"]
    assert len(images) == 3
    for part, page, (_, _, _, file) in zip(images, pages, lines, strict=True):
        data = decoded(part["image_url"]["url"])
        assert data == Path(file).read_bytes()
        path = f"/documents/{REGISTERED}/pages/{page}/image"
        assert data == service.client.get(path, params={"width": 1600}).raise_for_status().content
        with Image.open(BytesIO(data)) as image:
            assert 800 < image.width <= 1600

    # A second run adds a document to the index in the folder, which still has the pages of the first.
    again = run(service.root, *script, "how the army crossed the river", CALENDAR, *folders, folder=tmp_path)
    assert re.match(rf"\d\.\d{{4}}  {re.escape(str(PDF))}, page 9  ", again.stdout)
    other = run(service.root, *script, "a party with music and gifts at Christmas", CALENDAR, *folders, folder=tmp_path)
    assert re.match(rf"\d\.\d{{4}}  {re.escape(str(CALENDAR))}, page 12  ", other.stdout)


QUESTIONS = (
    {"id": "loan", "query": "Which bank gives a loan to a small business?", "file": "town-guide.pdf"},
    {"id": "train", "query": "train ticket to the airport", "file": "town-guide.pdf"},
    {"id": "party", "query": "a party with music and gifts at Christmas", "file": "club calendar.pdf"},
    {"id": "prison", "query": "Why did two men go to prison?", "file": "town-guide.pdf"},
)
RIGHT_PAGES = {"loan": 5, "train": 3, "party": 12, "prison": 7}
BATCH = EXAMPLES / "batch_folder.py"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """A folder with two PDFs."""
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "town-guide.pdf").write_bytes(PDF.read_bytes())
    (folder / "club calendar.pdf").write_bytes(CALENDAR.read_bytes())
    return folder


def write_questions(file: Path, questions: Sequence[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(question) + "\n" for question in questions))
    return file


def read_rankings(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_batch_job_goes_on_where_it_was_stopped(service: RankingService, reports: Path, tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    rankings = tmp_path / "rankings.jsonl"
    run(service.root, sys.executable, BATCH, reports, questions, rankings, "--top-n", "3", folder=tmp_path)
    whole = read_rankings(rankings)
    assert {line["id"]: line["pages"][0]["page"] for line in whole} == RIGHT_PAGES
    assert {line["id"]: line["file"] for line in whole} == {each["id"]: each["file"] for each in QUESTIONS}
    loan = next(line for line in whole if line["id"] == "loan")
    pages = [each["page"] for each in loan["pages"]]
    assert_best(service, QUESTIONS[0]["query"], pages, ALL_PAGES)

    first, second, *_ = rankings.read_text().splitlines(keepends=True)
    rankings.write_text(first + second[: len(second) // 2])  # as after a kill in the middle of a line
    before = service.answered()
    run(service.root, sys.executable, BATCH, reports, questions, rankings, "--top-n", "3", folder=tmp_path)
    assert service.answered() - before == len(QUESTIONS) - 1
    assert rankings.read_text().startswith(first)
    assert {line["id"]: line["pages"][0]["page"] for line in read_rankings(rankings)} == RIGHT_PAGES


def test_the_batch_job_reports_what_the_service_refuses(service: RankingService, reports: Path, tmp_path: Path) -> None:
    (reports / "damaged.pdf").write_bytes(b"%PDF-1.7\nnothing")
    damaged = {"id": "damaged", "query": "train", "file": "damaged.pdf"}
    absent = {"id": "absent", "query": "train", "file": "absent.pdf"}
    questions = write_questions(tmp_path / "questions.jsonl", [damaged, QUESTIONS[0], absent])
    rankings = tmp_path / "rankings.jsonl"
    done = run(service.root, sys.executable, BATCH, reports, questions, rankings, folder=tmp_path, returns=1)
    assert [line["id"] for line in read_rankings(rankings)] == ["loan"]
    assert "damaged: damaged.pdf: 422" in done.stderr and "corrupt_document" in done.stderr
    assert "absent: absent.pdf: " in done.stderr
    assert "1 rankings written, 2 questions failed" in done.stdout


def test_the_batch_job_waits_for_a_service_that_is_busy(reports: Path, tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    rankings = tmp_path / "rankings.jsonl"
    flags = ("--model", "demo", "--port", "0", "--device", "cpu", "--drain-delay-seconds", "0")
    with process(*flags, "--max-concurrent-requests", "1", ZIPRERANK_API_KEY=KEY) as running:
        root = listening_url(running)
        with httpx.Client(base_url=root, timeout=PATIENCE_SECONDS) as client:
            wait_until_ready(client)
            run(root, sys.executable, BATCH, reports, questions, rankings, folder=tmp_path)
            metrics = client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    refused = re.findall(r'^ziprerank_requests_total\{code="429".*\} (\S+)$', metrics, re.M)
    assert sum(map(float, refused)) > 0, "four requests at once met a limit of one"
    assert {line["id"]: line["pages"][0]["page"] for line in read_rankings(rankings)} == RIGHT_PAGES


def test_the_batch_job_waits_as_long_as_the_service_says(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'examples')\n"
        "from batch_folder import seconds_to_wait\n"
        "print(seconds_to_wait('90', 1), seconds_to_wait('1', 5), seconds_to_wait(None, 1), seconds_to_wait(None, 20))"
    )
    done = run("http://127.0.0.1:9", sys.executable, "-c", script, folder=tmp_path)
    told, later, first, last = map(float, done.stdout.split())
    assert told >= 90
    assert later >= 16
    assert 1 <= first <= 2
    assert 60 <= last <= 75


def notebook_source(file: Path) -> str:
    """The code of all cells, as Jupyter runs them one after the other."""
    notebook = json.loads(file.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code] == [[]] * len(code), "outputs are not kept in the repository"
    return "\n".join("".join(cell["source"]) for cell in code)


def test_the_notebook_measures_recall_at_each_keep_ratio(service: RankingService, tmp_path: Path) -> None:
    source = notebook_source(EXAMPLES / "keep_ratio.ipynb")
    done = run(service.root, sys.executable, "-", stdin=source, folder=tmp_path)
    _, rows = done.stdout.split("total ms\n")
    table = [[float(cell) for cell in row.split()] for row in rows.splitlines()]
    assert [row[0] for row in table] == [1, 0.5, 0.25, 0.1]

    listed = re.search(r"^QUESTIONS = (\[\n.*?^\])\n", source, re.M | re.S)
    assert listed
    questions: list[tuple[str, int]] = ast.literal_eval(listed[1])
    assert [page for _, page in questions] == list(ALL_PAGES)
    whole_tokens = table[0][2]
    for keep_ratio, recall, tokens, language, total in table:
        right = 0
        for query, page in questions:
            options = {"keep_ratio": keep_ratio}
            body = {"query": query, "documents": [{"id": REGISTERED}], "top_n": 1, "ziprerank": options}
            answer = service.client.post("/rerank", json=body).raise_for_status().json()
            right += answer["results"][0]["page"] == page
        assert recall == pytest.approx(right / PAGES, abs=1.1 / PAGES), "one near tie may fall either way"
        assert tokens == pytest.approx(keep_ratio * whole_tokens, rel=0.1)
        assert 0 < language <= total
    assert table[0][1] > 0.5
