"""`ziprerank rank` ranks files in this process and on a server alike, and ends with an exit code and one sentence."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

from model import CheckpointError, FakeRankingModel, PageScores, PreparedRequest, Reranker, score_in_input_order
from service.cli import main
from service.commands import rank_local
from service.commands.demo import PDF, QUERY
from tests.documents import make_encrypted_pdf, make_image, make_pdf, make_pdf_with_truncated_image, make_raw_pdf
from tests.patience import PATIENCE_SECONDS
from tests.processes import free_port
from tests.servers import RunningService, fake_loader, running_service

KEY = "sesame"
PROJECT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ZIPRERANK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZIPRERANK_RASTERIZER_PROCESSES", "1")


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    """Ranks the last page first, and takes bodies up to 200 kB."""
    load = fake_loader(reranker, score_last_first)
    with running_service(load, api_key=KEY, max_body_bytes=200_000) as running:
        yield running


@pytest.fixture
def local(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model for the ranking in this process."""
    monkeypatch.setattr(rank_local, "load_reranker", fake_loader(reranker, score_last_first))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the model fails the test."""

    def load(settings: object) -> NoReturn:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(rank_local, "load_reranker", load)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A PDF of three pages, an image, and a PDF of two pages."""
    contents = {"report.pdf": make_pdf(3), "photo.png": make_image(60, 40), "minutes.pdf": make_pdf(2)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in contents]


def score_last_first(batch: Sequence[PreparedRequest]) -> list[PageScores]:
    """The opposite order of the pages, so that it is told from that of the files."""
    return [
        PageScores(
            logits=scores.logits[::-1],
            order=scores.order[::-1],
            visual_tokens=scores.visual_tokens,
            kept_tokens=scores.kept_tokens,
            prompt_tokens=scores.prompt_tokens,
        )
        for scores in score_in_input_order(batch)
    ]


def rank(*arguments: str, query: str = "loan") -> int:
    return main(["rank", *arguments, "--query", query])


def on(service: RunningService) -> list[str]:
    return ["--url", service.url, "--api-key", KEY]


def ranked_pages(table: str) -> list[tuple[str, str]]:
    """Document and page of each row."""
    head, *rows = [line.split() for line in table.splitlines()]
    assert head == ["rank", "score", "document", "page"]
    assert [row[0] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    return [(Path(row[2]).name, row[3]) for row in rows]


def rank_as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert rank(*arguments, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error; standard output is empty."""
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("ziprerank: ") and streams.err.count("\n") == 1
    return streams.err.removeprefix("ziprerank: ").rstrip("\n")


def test_the_bundled_model_finds_the_page_with_the_words_of_the_query(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "best"
    arguments = [str(PDF), "--model", "demo", "--device", "cpu", "--top-n", "2", "--save-pages", str(folder)]
    assert rank(*arguments, query=QUERY) == 0
    streams = capsys.readouterr()
    (name, page), (_, second) = ranked_pages(streams.out)
    assert (name, page) == (PDF.name, "5")
    assert streams.err == "", "no progress bar where there is no terminal"
    saved = sorted(folder.iterdir())
    assert [file.name for file in saved] == [f"0001-town-guide-page-{page}.png", f"0002-town-guide-page-{second}.png"]


@pytest.mark.usefixtures("local")
def test_pages_of_all_files_are_ranked_together(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(*files) == 0
    assert ranked_pages(capsys.readouterr().out) == [
        ("minutes.pdf", "2"),
        ("minutes.pdf", "1"),
        ("photo.png", "-"),
        ("report.pdf", "3"),
        ("report.pdf", "2"),
        ("report.pdf", "1"),
    ]


@pytest.mark.usefixtures("local")
def test_a_server_and_this_process_give_the_same_answer(
    service: RunningService, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--pages", "2-", "--pages", "1", "--pages", "1-", "--top-n", "4", "--keep-ratio", "0.5"]
    here = rank_as_json(capsys, *files, *options)
    there = rank_as_json(capsys, *files, *options, *on(service))
    for answer in (here, there):
        assert answer.pop("id").startswith("rerank-") and answer.pop("created") > 0
    assert here == there
    assert [(result["index"], result["page"]) for result in here["results"]] == [(2, 2), (2, 1), (1, None), (0, 3)]
    assert here["meta"]["score"] == "softmax"


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("place", ["here", "there"])
def test_a_smaller_keep_ratio_leaves_fewer_tokens(
    place: str, service: RunningService, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if place == "here" else on(service)
    few, many = (rank_as_json(capsys, *files, "--keep-ratio", ratio, *where) for ratio in ("0.1", "1"))
    assert few["usage"]["total_tokens"] < many["usage"]["total_tokens"]


@pytest.mark.usefixtures("local")
def test_more_pages_than_a_window_are_ranked_in_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.pdf").write_bytes(make_pdf(25))
    answer = rank_as_json(capsys, str(tmp_path / "long.pdf"))
    assert answer["meta"]["windows"] == 2 and answer["meta"]["score"] == "rank"
    assert sorted(result["page"] for result in answer["results"]) == list(range(1, 26))


@pytest.mark.usefixtures("local")
def test_one_page_selection_is_for_all_files(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(*files, "--pages", "1") == 0
    assert sorted(ranked_pages(capsys.readouterr().out)) == [
        ("minutes.pdf", "1"),
        ("photo.png", "-"),
        ("report.pdf", "1"),
    ]


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("place", ["here", "there"])
def test_saved_pages_are_those_shown_by_rank_and_page(
    place: str, service: RunningService, files: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    assert rank(*files, "--top-n", "4", "--save-pages", str(folder), *([] if place == "here" else on(service))) == 0
    names = ["0001-minutes-page-2.png", "0002-minutes-page-1.png", "0003-photo.png", "0004-report-page-3.png"]
    assert sorted(file.name for file in folder.iterdir()) == names
    darkness = []
    for name in names:
        with Image.open(folder / name) as image:
            assert image.format == "PNG"
            darkness.append(image.convert("L").histogram()[0] / (image.width * image.height))
    # Page n of N carries a black bar of n / (N + 1) of its height; the photo is red.
    assert darkness == pytest.approx([2 / 3, 1 / 3, 0, 3 / 4], abs=0.01)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.pdf", None, "No such file"),
        ("notes.txt", b"words", "is plain text, but only PDFs"),
        ("empty.pdf", b"", "the document is empty"),
        ("locked.pdf", make_encrypted_pdf(password="p"), "needs a password"),
    ],
)
def test_a_file_that_is_no_document_is_named_before_the_model_is_loaded(
    name: str, content: bytes | None, said: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert rank(*files, str(tmp_path / name)) == 3
    sentence = complaint(capsys)
    assert sentence.startswith(f"{tmp_path / name}: ") and said in sentence


@pytest.mark.usefixtures("no_model")
def test_a_folder_is_not_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(str(tmp_path)) == 3
    assert complaint(capsys) == f"{tmp_path}: not a file."


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("place", ["here", "there"])
def test_a_page_that_cannot_be_drawn_is_named_with_its_file(
    place: str, service: RunningService, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = tmp_path / "narrow.pdf"
    narrow.write_bytes(make_raw_pdf(media_box="[0 0 5000 1]"))
    assert rank(*files, str(narrow), *([] if place == "here" else on(service))) == 3
    assert complaint(capsys).startswith(f"{narrow}, page 1: the size")


@pytest.mark.usefixtures("local")
def test_a_page_with_parts_missing_is_ranked_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "torn.pdf"
    torn.write_bytes(make_pdf_with_truncated_image())
    assert rank(str(torn)) == 0
    streams = capsys.readouterr()
    assert ranked_pages(streams.out) == [("torn.pdf", "1")]
    assert streams.err == f"ziprerank: {torn}, page 1: parts of the page could not be drawn.\n"


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pages", "1", "--pages", "2"], "given 2 times for 3 files"),
        (["--pages", "1", "--pages", "1", "--pages", "9"], "minutes.pdf, --pages: page 9 does not exist"),
        (["--pages", "first"], "report.pdf, --pages: item 1 is not a page"),
        (["--query", " "], "--query: it is empty"),
        (["--keep-ratio", "2"], "ZIPRERANK_KEEP_RATIO"),
        (["--api-key", "k"], "--api-key needs --url"),
        (["--answer-seconds", "3"], "--answer-seconds needs --url"),
        (["--url", "http://localhost", "--model", "demo"], "--model cannot be used with --url"),
        (["--url", "http://localhost", "--device", "cpu"], "--device cannot be used with --url"),
        (["--url", "localhost:8000"], "give an address such as http://localhost:8000"),
        (["--url", "http://localhost:port"], "give an address such as http://localhost:8000"),
        (["--url", "http://localhost", "--api-key", "k\n"], "printable ASCII"),
    ],
)
def test_wrong_usage_ends_with_2(
    flags: list[str], said: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", *files, "--query", "loan", *flags]) == 2
    assert said in complaint(capsys)


@pytest.mark.parametrize("flags", [["--top-n", "0"], ["--top-n", "many"], ["--connect-seconds", "nan"]])
def test_values_that_are_no_numbers_end_with_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        rank("report.pdf", *flags)
    assert end.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_a_folder_with_files_in_it_is_kept_from_mixing_with_saved_pages(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(*files, "--save-pages", str(tmp_path)) == 2
    assert "is not empty" in complaint(capsys)


@pytest.mark.usefixtures("no_model")
def test_more_pages_than_memory_is_planned_for_are_refused(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rank_local, "MAX_PAGES", 5)
    assert rank(*files) == 2
    assert "6 pages are selected and the limit is 5" in complaint(capsys)


def test_a_checkpoint_that_is_not_there_ends_with_4(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(*files, "--model", str(tmp_path / "nowhere")) == 4
    assert "the model cannot be loaded" in complaint(capsys)


def test_scores_that_are_not_finite_end_with_1(
    reranker: Reranker, files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def score_nothing(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        [scores] = score_in_input_order(batch)
        return [
            PageScores(
                logits=(float("nan"),) * len(scores.logits),
                order=scores.order,
                visual_tokens=1,
                kept_tokens=1,
                prompt_tokens=1,
            )
        ]

    monkeypatch.setattr(rank_local, "load_reranker", fake_loader(reranker, score_nothing))
    assert rank(*files) == 1
    assert "not finite" in complaint(capsys)


def test_layers_are_not_compiled_for_one_query(
    reranker: Reranker, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []

    def load(settings: Any) -> FakeRankingModel:
        compiled.append(settings.compile)
        return FakeRankingModel(model=reranker)

    monkeypatch.setattr(rank_local, "load_reranker", load)
    assert rank(*files) == 0
    assert compiled == [False]


def test_a_wrong_key_ends_with_5(service: RunningService, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(*files, "--url", service.url, "--api-key", "wrong") == 5
    assert complaint(capsys).startswith(f"{service.url} answered 401: The API key is missing or wrong")


def test_the_key_may_come_from_the_environment(
    service: RunningService, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIPRERANK_API_KEY", KEY)
    assert rank(*files, "--url", service.url) == 0


def test_a_server_that_is_not_there_ends_with_5(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert rank(*files, "--url", url) == 5
    assert complaint(capsys).startswith(f"{url} cannot be reached: ")


def test_documents_that_are_too_large_for_a_server_end_with_5_and_its_limit(
    service: RunningService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large.pdf"
    large.write_bytes(make_pdf(1) + bytes(1 << 20))
    assert rank(str(large), *on(service)) == 5
    assert "answered 413" in (sentence := complaint(capsys)) and "the limit is 200000" in sentence


def test_a_page_that_a_document_lacks_ends_with_2_on_a_server_too(
    service: RunningService, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(*files, "--pages", "1", "--pages", "1", "--pages", "9", *on(service)) == 2
    assert complaint(capsys).startswith(f"{files[2]}, --pages: page 9 does not exist")


def test_a_file_that_is_no_document_is_named_on_a_server_too(
    service: RunningService, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_bytes(b"words")
    assert rank(*files, str(notes), *on(service)) == 3
    assert complaint(capsys).startswith(f"{notes}: the document is plain text")


class OtherServer(BaseHTTPRequestHandler):
    """Answers as the path says; none of the answers is one of ours."""

    def do_POST(self) -> None:
        if self.path != "/early/rerank":  # which closes the connection while the client sends
            self.rfile.read(int(self.headers["Content-Length"]))
        status, body = {
            "/page/rerank": (200, b"<html>welcome</html>"),
            "/list/rerank": (200, b"[]"),
            "/other/rerank": (200, b'{"results": [{"index": 0, "score": 1}]}'),
            "/beyond/rerank": (
                200,
                b'{"results": [{"index": 3, "id": "x", "page": null, "relevance_score": 1}]}',
            ),
            "/broken/rerank": (502, b"<html>bad gateway</html>"),
            "/early/rerank": (413, b"too much"),
            "/silent/rerank": (0, b""),
        }[self.path]
        if status:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture(scope="module")
def other_server() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("page", "is not JSON"),
        ("list", "is not JSON"),
        ("other", "cannot be shown"),
        ("beyond", "a document that was not sent"),
        ("broken", "answered 502 Bad Gateway. <html>bad gateway"),
        ("silent", "the connection failed"),
    ],
)
def test_a_server_of_another_kind_ends_with_5(
    path: str, said: str, other_server: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(*files, "--url", f"{other_server}/{path}") == 5
    assert said in complaint(capsys)


def test_a_refusal_is_read_from_a_server_that_stops_reading(
    other_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large.pdf"
    large.write_bytes(bytes(32 << 20))  # more than buffers of sockets hold
    assert rank(str(large), "--url", f"{other_server}/early") == 5
    assert "answered 413" in complaint(capsys)


def test_a_server_that_never_answers_ends_with_5(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute:  # connects, because the system accepts
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        assert rank(*files, "--url", url, "--answer-seconds", "0.05", "--connect-seconds", str(PATIENCE_SECONDS)) == 5
    assert time.monotonic() - started < PATIENCE_SECONDS / 2, "the patience with connecting is another"
    assert complaint(capsys) == f"{url} did not answer within 0.05 s. Raise --answer-seconds."


def command(*arguments: str, before: str = "") -> list[str]:
    """The command in an interpreter of its own. before: statements."""
    return [sys.executable, "-c", f"import sys; from service.cli import main\n{before}\nsys.exit(main())", *arguments]


def test_a_server_is_asked_and_pages_are_saved_without_torch(
    service: RunningService, files: list[str], tmp_path: Path
) -> None:
    flags = ["rank", *files, "--query", "loan", *on(service), "--save-pages", str(tmp_path / "pages")]
    ended = subprocess.run(
        command(*flags, before="sys.modules['torch'] = None"),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(list((tmp_path / "pages").iterdir())) == len(ended.stdout.splitlines()) - 1 == 6


def test_help_needs_no_torch_and_lists_the_exit_codes() -> None:
    before = "import atexit; atexit.register(lambda: print({'torch', 'model'} & set(sys.modules)))"
    ended = subprocess.run(
        command("rank", "--help", before=before), cwd=PROJECT, capture_output=True, text=True, check=True
    )
    *text, imported = ended.stdout.splitlines()
    assert imported == "set()"
    codes = [line.split()[0] for line in text[text.index("exit codes:") + 1 : text.index("examples:") - 1]]
    assert codes == ["0", "1", "2", "3", "4", "5", "130"]


INTERRUPTED = """
import time
from service.commands import rank_local

def load(settings):
    print("loading", flush=True, file=sys.__stdout__)
    time.sleep(1e6)

rank_local.load_reranker = load
"""


def test_ctrl_c_ends_with_130_and_no_worker_left(files: list[str]) -> None:
    running = subprocess.Popen(
        command("rank", *files, "--query", "loan", before=INTERRUPTED),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "loading\n"
        assert running.poll() is None
        workers = children_of(running.pid)
        assert workers, "the raster workers run"
        os.killpg(running.pid, signal.SIGINT)  # workers included, as a terminal does
        assert running.communicate(timeout=PATIENCE_SECONDS)[1] == "ziprerank: stopped.\n"
        assert running.returncode == 130
        assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    finally:
        running.kill()
        running.communicate()


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def test_an_interrupted_ranking_closes_its_workers(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(settings: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(rank_local, "load_reranker", load)
    before = {thread.name for thread in threading.enumerate()}
    assert rank(*files) == 130
    assert complaint(capsys) == "stopped."
    assert {thread.name for thread in threading.enumerate()} <= before


def test_a_checkpoint_error_is_one_sentence(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(settings: object) -> NoReturn:
        raise CheckpointError("The folder lacks config.json.")

    monkeypatch.setattr(rank_local, "load_reranker", load)
    assert rank(*files) == 4
    assert complaint(capsys) == "the model cannot be loaded: The folder lacks config.json."
