import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.raster import process as process_module
from service.raster.page import Kind, RasterFailure, WorkerSettings
from service.raster.process import ProcessDied, RasterProcess
from tests.documents import make_image, make_pdf
from tests.patience import PATIENCE_SECONDS
from tests.service.raster.processes import settings, started

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def process() -> Iterator[RasterProcess]:
    with started(settings()) as process:
        yield process


def test_page_comes_back_as_an_owned_array(process: RasterProcess) -> None:
    process.open(1, make_pdf(2), kind=Kind.PDF, seconds=PATIENCE_SECONDS)
    first = process.render(1, 1, seconds=PATIENCE_SECONDS)
    before = first.pixels.copy()
    process.render(1, 2, seconds=PATIENCE_SECONDS)
    assert first.pixels.shape[2] == 3 and first.pixels.flags.owndata
    assert (first.pixels == before).all()


def test_only_page_of_a_document_comes_in_one_call_that_leaves_nothing_open(process: RasterProcess) -> None:
    page = process.render_only_page(make_image(50, 30), kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
    assert page.pixels.shape == (30, 50, 3) and process.open_documents == ()
    with pytest.raises(RasterFailure, match="corrupt_image"):
        process.render_only_page(make_image(50, 30)[:60], kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
    assert process.is_running and process.documents_opened == 2


def test_large_document_passes_the_socket(process: RasterProcess) -> None:
    opened = process.open(1, make_pdf(1) + bytes(20 << 20), kind=Kind.PDF, seconds=PATIENCE_SECONDS)
    assert opened.page_count == 1


def test_failure_leaves_the_process_usable(process: RasterProcess) -> None:
    with pytest.raises(RasterFailure, match="corrupt_document"):
        process.open(1, b"%PDF-1.7 nonsense", kind=Kind.PDF, seconds=PATIENCE_SECONDS)
    assert process.open(2, make_image(), kind=Kind.IMAGE, seconds=PATIENCE_SECONDS).page_count == 1


def test_open_documents_are_bounded(process: RasterProcess) -> None:
    for key in range(1, 31):
        process.open(key, make_image(), kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
    assert len(process.open_documents) == 16
    assert 30 in process.open_documents and 1 in process.open_documents


def test_bytes_of_open_documents_are_bounded(process: RasterProcess) -> None:
    for key in range(1, 5):
        process.open(key, make_image() + bytes(30 << 20), kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
    assert process.open_documents == (1, 4)


@linux
def test_process_is_confined(process: RasterProcess) -> None:
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    values = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert values["Max address space"] == [str(1 << 30)] * 2
    assert values["Max core file size"] == values["Max file size"] == ["0", "0"]
    assert values["Max open files"] == ["32", "32"]
    assert 60 <= int(values["Max cpu time"][0]) <= 63
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 5


@linux
def test_process_looks_for_fonts_where_its_parent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, f"/nowhere/{name}")
    with started(settings()) as process:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    assert {b"HOME=/nowhere/HOME", b"XDG_DATA_HOME=/nowhere/XDG_DATA_HOME"} <= set(environment)
    assert b"XDG_DATA_DIRS=/nowhere/XDG_DATA_DIRS" in environment


@linux
def test_process_opens_no_font_before_a_text_needs_one(process: RasterProcess) -> None:
    """Listing them takes a while on a machine with thousands."""
    assert not _fonts_of(process)
    process.render_only_page(make_image(), kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
    assert not _fonts_of(process)


def _fonts_of(process: RasterProcess) -> set[str]:
    """Font files in the memory of the process, which maps those that it draws with."""
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if line.endswith((".ttf", ".otf", ".ttc"))}


def test_text_of_several_pages_comes_page_by_page(process: RasterProcess) -> None:
    opened = process.open(1, b"harbour mirror " * 3_000, kind=Kind.TEXT, seconds=PATIENCE_SECONDS)
    assert opened.page_count > 1 and opened.is_paged
    pages = [process.render(1, number, seconds=PATIENCE_SECONDS) for number in (1, opened.page_count)]
    assert [page.pixels.shape for page in pages] == [(1024, 1024, 3)] * 2
    assert (pages[0].pixels != pages[1].pixels).any() and not pages[0].degraded_reasons


def test_short_text_comes_in_one_call(process: RasterProcess) -> None:
    page = process.render_only_page("harbour \ue000".encode(), kind=Kind.TEXT, seconds=PATIENCE_SECONDS)
    assert page.pixels.shape == (280, 280, 3) and page.pixels.min() < 128
    with pytest.raises(RasterFailure, match="empty_text"):
        process.render_only_page("\u3164".encode(), kind=Kind.TEXT, seconds=PATIENCE_SECONDS)


@linux
def test_process_sees_neither_secrets_nor_the_parent_s_files(
    process: RasterProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIPRERANK_TEST_SECRET", "hunter2")
    with started(settings()) as other:
        assert b"hunter2" not in Path(f"/proc/{other.pid}/environ").read_bytes()
    links = {os.readlink(f"/proc/{process.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{process.pid}/fd")}
    assert links == {"/dev/null", "socket", "/memfd"}


def test_worker_imports_the_engines_and_the_pages_and_else_the_standard_library_alone() -> None:
    code = "import sys; before = set(sys.modules); import service.raster.worker; print(*set(sys.modules) - before)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    modules = set(output.split())
    assert not modules & {"torch", "numpy", "fastapi", "pydantic", "asyncio"}
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    assert {name for name in packages if not name.startswith("swig_runtime_data")} == {
        "PIL",
        "pymupdf",
        "model",
        "service",
    }
    assert {name for name in modules if name.partition(".")[0] == "model"} == {
        "model",
        "model.pages",
        "model.pages.colour",
        "model.pages.fonts",
        "model.pages.image",
        "model.pages.text_layout",
        "model.pages.text_page_format",
        "model.pages.typesetting",
    }
    pdf_parts = (
        f"pdf_{part}" for part in ("engine", "audit", "boxes", "layers", "placeholders", "streams", "warnings")
    )
    image_parts = ("image_decoder", "cut_off_jpeg", "damaged_png", "tiff_directories")
    parts = ("worker", "page", "text_file", *image_parts, *pdf_parts)
    ours = {"service", "service.degraded_reason", "service.raster", *(f"service.raster.{part}" for part in parts)}
    assert {name for name in modules if name.partition(".")[0] == "service"} == ours


def test_worker_ends_with_its_socket(process: RasterProcess) -> None:
    process._control.close()
    assert process._popen.wait(timeout=PATIENCE_SECONDS) == 0


@linux
def test_worker_ends_with_its_parent() -> None:
    code = (
        "import os, signal; from tests.service.raster.processes import *\n"
        "process = RasterProcess(settings()); process.await_hello(seconds=PATIENCE_SECONDS)\n"
        "os.kill(process.pid, signal.SIGSTOP); print(process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_running(int(parent.stdout)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(parent.stdout))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_deadline_kills(process: RasterProcess) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(ProcessDied, match="timeout"):
        process.open(1, make_pdf(1) + bytes(8 << 20), kind=Kind.PDF, seconds=0.1)
    assert not process.is_running


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGSEGV, "crash"), (signal.SIGABRT, "crash"), (signal.SIGXCPU, "cpu")]
)
def test_cause_of_death_is_derived_from_the_exit_status(
    process: RasterProcess, number: signal.Signals, cause: str
) -> None:
    os.kill(process.pid, number)
    with pytest.raises(ProcessDied, match=cause):
        process.open(1, make_pdf(1), kind=Kind.PDF, seconds=PATIENCE_SECONDS)


@linux
def test_document_larger_than_the_memory_limit_is_a_memory_death() -> None:
    with started(settings(memory_bytes=200 << 20)) as process, pytest.raises(ProcessDied, match="memory"):
        process.open(1, bytes(300 << 20), kind=Kind.PDF, seconds=PATIENCE_SECONDS)


HOSTILE_REPLIES = {
    "no JSON": b"nonsense\n",
    "no object": b"[]\n",
    "deep nesting": b"[" * 500 + b"\n",
    "no end": b"x" * 5_000,
    "wrong ticket": b'{"ticket": 99, "rss_bytes": 1}\n',
    "second reply": b'{"ticket": 1, "rss_bytes": 1}\n{"ticket": 2}\n',
    "no memory": b'{"ticket": 1}\n',
    "true is no number": b'{"ticket": 1, "rss_bytes": true}\n',
    "text as error": b'{"ticket": 1, "rss_bytes": 1, "error": "look at 0x7f00"}\n',
    "list as error": b'{"ticket": 1, "rss_bytes": 1, "error": []}\n',
    "no page count": b'{"ticket": 1, "rss_bytes": 1}\n',
    "negative count": b'{"ticket": 1, "rss_bytes": 1, "page_count": -1}\n',
    "huge count": b'{"ticket": 1, "rss_bytes": 1, "page_count": 99999999999}\n',
    "huge size": b'{"ticket": 1, "rss_bytes": 1, "error": "bad_page_box", "width": 1e99, "height": 1}\n',
}


@pytest.mark.parametrize("reply", HOSTILE_REPLIES.values(), ids=HOSTILE_REPLIES.keys())
def test_hostile_worker_is_killed_and_not_believed(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process in the worker's place that sends a reply as a compromised worker could."""

    def start(settings: WorkerSettings, *, control_fd: int, slot_fd: int) -> Any:
        code = f"import socket, time; s = socket.socket(fileno={control_fd}); s.sendall({reply!r}); time.sleep(60)"
        return subprocess.Popen([sys.executable, "-S", "-E", "-c", code], pass_fds=(control_fd,))

    monkeypatch.setattr(process_module, "_start", start)
    process = RasterProcess(settings())
    with pytest.raises(ProcessDied, match="protocol"):
        process.open(1, b"", kind=Kind.PDF, seconds=PATIENCE_SECONDS)
    assert not process.is_running
    process.close()


def test_a_worker_cannot_claim_to_have_worked_outside_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = b'"began_ns": 1, "ended_ns": 9000000000000000000'
    reply = b'{"ticket": 1, "rss_bytes": 1, "width": 1, "height": 1, "degraded_reasons": [], ' + claims + b"}\n"

    def start(settings: WorkerSettings, *, control_fd: int, slot_fd: int) -> Any:
        code = f"import socket, time; s = socket.socket(fileno={control_fd}); s.sendall({reply!r}); time.sleep(60)"
        return subprocess.Popen([sys.executable, "-S", "-E", "-c", code], pass_fds=(control_fd,))

    monkeypatch.setattr(process_module, "_start", start)
    process = RasterProcess(settings())
    before = time.time_ns()
    page = process.render_only_page(b"", kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
    assert before <= page.began_ns <= page.ended_ns <= time.time_ns()
    process.close()


@pytest.mark.parametrize("reasons", ['["<b>"]', '[["image"]]', '"image"', "null", "[1]"])
def test_a_worker_cannot_make_up_reasons(reasons: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = f'"began_ns": {time.time_ns()}, "ended_ns": {time.time_ns()}'
    reply = (
        f'{{"ticket": 1, "rss_bytes": 1, "width": 1, "height": 1, "degraded_reasons": {reasons}, {times}}}\n'.encode()
    )

    def start(settings: WorkerSettings, *, control_fd: int, slot_fd: int) -> Any:
        code = f"import socket, time; s = socket.socket(fileno={control_fd}); s.sendall({reply!r}); time.sleep(60)"
        return subprocess.Popen([sys.executable, "-S", "-E", "-c", code], pass_fds=(control_fd,))

    monkeypatch.setattr(process_module, "_start", start)
    process = RasterProcess(settings())
    with pytest.raises(ProcessDied, match="protocol"):
        process.render_only_page(b"", kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
    process.close()


def test_a_page_carries_the_times_of_its_rendering(process: RasterProcess) -> None:
    process.open(1, make_pdf(1), kind=Kind.PDF, seconds=PATIENCE_SECONDS)
    before = time.time_ns()
    page = process.render(1, 1, seconds=PATIENCE_SECONDS)
    assert before <= page.began_ns < page.ended_ns <= time.time_ns()


def test_slot_cannot_be_cut_short(process: RasterProcess) -> None:
    fd = process_module._make_slot()
    try:
        if sys.platform == "linux":
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_settings_in_the_argument_are_all_the_worker_gets(process: RasterProcess) -> None:
    command = process._popen.args
    assert isinstance(command, list)
    argument = json.loads(command[-1])
    assert set(argument) == {"control_fd", "slot_fd", "settings"}
    assert WorkerSettings(**argument["settings"]) == settings()
