"""`ziprerank doctor` names what is wrong with a machine and what to change, and ends with the right exit code."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import cards, diagnosis
from model.checkpoint import BUNDLED
from model.pages.fonts import installed_fonts
from service.cli import DOCTOR_SETTINGS, main
from service.commands import doctor_checks
from service.raster.pool import RasterLimits
from service.settings import Settings
from tests.fake_card import FakeCard
from tests.pci_bus import add_device

NAMES = ["card", "checkpoint", "attention", "compile", "memory", "raster", "fonts", "forward"]

needs_no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ZIPRERANK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZIPRERANK_RASTERIZER_PROCESSES", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled checkpoint to damage."""
    return Path(shutil.copytree(BUNDLED["demo"], tmp_path / "checkpoint"))


def doctor(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run with --json: the exit code, and the checks by name."""
    exit_code = main(["doctor", "--json", *flags])
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is (exit_code == 0)
    assert [check["name"] for check in report["checks"]] == NAMES
    for check in report["checks"]:
        assert set(check) == {"name", "state", "found", "remedy", "details"}
        assert bool(check["remedy"]) is (check["state"] != "ok"), "whatever is not ok says what to change"
    return exit_code, {check["name"]: check for check in report["checks"]}


def failed(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, check in checks.items() if check["state"] == "failed"]


def test_a_machine_that_serves_the_demo_checkpoint_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, checks = doctor(capsys, "--model", "demo", "--device", "cpu")
    assert exit_code == 0 and failed(checks) == []
    assert {checks[name]["state"] for name in NAMES if name != "fonts"} == {"ok"}
    assert checks["card"]["details"]["dtype"] == "float32"
    checkpoint = checks["checkpoint"]["details"]
    assert checkpoint["tensors"] == 134 and checkpoint["dtypes"] == ["BF16"] and 8e6 < checkpoint["parameters"] < 9e6
    assert checks["attention"]["details"]["vision"]["chosen"] == "sdpa"
    assert "device is cpu" in checks["attention"]["details"]["decoder"]["obstacles"]["torch-varlen"]
    assert checks["compile"]["details"]["is_on"] is False
    assert checks["raster"]["details"]["workers"] == 1
    forward = checks["forward"]["details"]
    assert set(forward["seconds"]) == {"load", "warm_up", "cold", "warm"} and min(forward["seconds"].values()) > 0
    assert (forward["pages"], forward["cached_pages"]) == (2, 2), "the second time from the cache"


def test_people_get_columns_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "demo", "--device", "cpu", "--no-forward"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [line for line in lines if line and not line.startswith(" ")]
    assert [line.split()[0] for line in starts[:-1]] == NAMES
    assert starts[1].index("ok") == starts[2].index("ok") == 12
    assert all(len(line) <= 100 for line in lines)
    assert starts[-1].startswith("No problem found, but some checks were skipped.") and lines[-1] == starts[-1]


def test_a_folder_that_is_not_there_fails_and_says_what_to_choose(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    exit_code, checks = doctor(capsys, "--model", str(tmp_path / "nowhere"))
    assert exit_code == 1 and failed(checks) == ["checkpoint"]
    assert "neither a folder nor a hub id" in checks["checkpoint"]["found"]
    assert "--model" in checks["checkpoint"]["remedy"]
    for name in ("attention", "memory", "forward"):
        assert checks[name]["state"] == "skipped" and "checkpoint" in checks[name]["found"]


def test_the_last_line_counts_the_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--model", str(tmp_path / "nowhere")]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("Not ready: 1 problem, see above.")
    assert "To do: Choose a folder" in out


def checkpoint_on_the_hub(home: Path, name: str, **environment: str) -> dict[str, Any]:
    """The check of a hub checkpoint, in a process of its own: the hub's library reads its environment when it is imported."""
    code = "import sys; from service.cli import main; sys.exit(main(['doctor', '--json', *sys.argv[1:]]))"
    ended = subprocess.run(
        [sys.executable, "-c", code, "--device", "cpu", "--model", name],
        env={"PATH": "", "HOME": str(home), "ZIPRERANK_RASTERIZER_PROCESSES": "1", **environment},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    check: dict[str, Any] = json.loads(ended.stdout)["checks"][1]
    assert (check["name"], check["state"]) == ("checkpoint", "failed")
    return check


def test_a_hub_checkpoint_that_is_neither_here_nor_within_reach_says_how_to_get_it(tmp_path: Path) -> None:
    checkpoint = checkpoint_on_the_hub(tmp_path, "owner/name", HF_HUB_OFFLINE="1")
    assert "'owner/name' is not in the hub's cache on this machine and could not be downloaded" in checkpoint["found"]
    assert "hf download owner/name" in checkpoint["remedy"]


class Hub(BaseHTTPRequestHandler):
    """Has `owner/name`, with files whose contents nobody may ask for, and keeps `owner/gated` to itself."""

    TREE = (
        {"type": "file", "path": "config.json", "size": 100, "oid": "b" * 40},
        {"type": "file", "path": "model.safetensors", "size": 17_000_000_000, "oid": "c" * 40},
        {"type": "file", "path": "README.md", "size": 99_000_000_000, "oid": "d" * 40},
    )

    def do_GET(self) -> None:
        if "owner/name" not in self.path:
            self.answer(401, b"{}")
        elif "/resolve/" in self.path:
            self.answer(500, b"a file is downloaded")
        else:
            self.answer(
                200, json.dumps(self.TREE if "/tree/" in self.path else {"id": "owner/name", "sha": "a" * 40}).encode()
            )

    def do_HEAD(self) -> None:
        size = next(file["size"] for file in self.TREE if self.path.endswith(f"/{file['path']}"))
        self.answer(200, b"", {"ETag": '"e"', "X-Repo-Commit": "a" * 40, "Content-Length": str(size)})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hub_checkpoint_that_the_hub_has_says_how_much_is_to_be_downloaded(hub: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_on_the_hub(tmp_path, "owner/name", HF_ENDPOINT=hub, NO_PROXY="127.0.0.1")
    assert "the hub has it, 17.0 GB to download" in checkpoint["found"]
    assert "hf download owner/name" in checkpoint["remedy"]


def test_a_refusal_of_the_hub_is_shown_with_its_status(hub: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_on_the_hub(tmp_path, "owner/gated", HF_ENDPOINT=hub, NO_PROXY="127.0.0.1")
    assert (
        "The hub refused 'owner/gated': status 401. Check the id, the revision and your token." in checkpoint["found"]
    )


def test_a_tensor_that_is_missing_is_named_and_nothing_is_loaded(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.visual.merger.norm.bias"]
    save_file(tensors, folder / "model.safetensors")
    exit_code, checks = doctor(capsys, "--model", str(folder), "--device", "cpu")
    assert exit_code == 1 and failed(checks) == ["checkpoint"]
    assert "lacks tensors: model.visual.merger.norm.bias" in checks["checkpoint"]["found"]
    assert checks["attention"]["state"] == "ok", "the sizes are known"
    assert checks["forward"]["state"] == "skipped"


@needs_no_card
def test_a_card_that_cuda_cannot_use_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_device(tmp_path, "0000:3b:00.0", "0x10de", "0x030200")
    monkeypatch.setattr(cards, "_PCI_DEVICES", tmp_path)
    exit_code, checks = doctor(capsys, "--model", "demo", "--no-forward")
    assert exit_code == 0 and checks["card"]["state"] == "warning", "the demo checkpoint is small"
    assert "PCI 0000:3b:00.0" in checks["card"]["found"] and "nvidia-smi" in checks["card"]["remedy"]
    monkeypatch.setattr(doctor_checks, "LARGE_CHECKPOINT", 1000)
    exit_code, checks = doctor(capsys, "--model", "demo")
    assert exit_code == 1 and failed(checks) == ["card"], "a large one the service refuses"
    assert checks["forward"]["state"] == "skipped"


@needs_no_card
def test_a_large_checkpoint_without_a_card_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cards, "_PCI_DEVICES", tmp_path)
    monkeypatch.setattr(doctor_checks, "LARGE_CHECKPOINT", 1000)
    exit_code, checks = doctor(capsys, "--model", "demo", "--no-forward")
    assert exit_code == 0 and checks["card"]["state"] == "warning"
    assert "doctor --plan" in checks["card"]["remedy"]


@needs_no_card
def test_a_card_that_is_asked_for_and_not_there_fails(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, checks = doctor(capsys, "--model", "demo", "--device", "cuda:1")
    assert exit_code == 1 and failed(checks) == ["card"]
    assert "0 CUDA devices are visible" in checks["card"]["found"]
    assert {checks[name]["state"] for name in ("attention", "compile", "memory", "forward")} == {"skipped"}


def test_a_card_with_room_has_its_figures_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeCard(total_bytes=24 * 2**30) as card, card.waiting_allowed():
        exit_code, checks = doctor(capsys, "--model", "demo", "--no-forward")
    assert exit_code == 0
    assert checks["card"]["details"]["compute_capability"] == "9.0"
    assert "24.0 GiB of 24.0 GiB free" in checks["card"]["found"]
    memory = checks["memory"]["details"]
    parts = ("weight_bytes", "batch_bytes", "page_feature_bytes", "taken_or_reserved_bytes")
    assert sum(memory[part] for part in parts) == memory["needed_bytes"] == memory["total_bytes"] == 24 * 2**30
    assert memory["quantise"] == "none" and "auto" in memory["reason"]
    obstacles = checks["attention"]["details"]["decoder"]["obstacles"]
    assert obstacles["torch-varlen"] is None and "not installed" in obstacles["flash-attn-3"]


def test_a_card_that_is_too_small_fails_with_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeCard(total_bytes=2**30) as card, card.waiting_allowed():
        exit_code, checks = doctor(capsys, "--model", "demo")
    assert exit_code == 1 and failed(checks) == ["memory"]
    found = checks["memory"]["found"]
    assert "The card is too small for these settings" in found and "1.0 GiB in all, 1.6 GiB needed" in found
    assert checks["forward"]["found"] == "Not run, because these checks failed: memory."


def test_weights_that_are_larger_than_the_hosts_memory_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_host_bytes", lambda: 16 * 2**20)
    exit_code, checks = doctor(capsys, "--model", "demo", "--device", "cpu")
    assert exit_code == 1 and failed(checks) == ["memory"]
    assert "31 MiB of weights in float32" in checks["memory"]["found"]
    assert checks["memory"]["found"].endswith("The machine has 16 MiB.")
    assert checks["forward"]["state"] == "skipped"


def test_a_card_that_somebody_else_uses_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeCard(total_bytes=24 * 2**30) as card, card.waiting_allowed():
        block = torch.empty(3 * 2**30, dtype=torch.uint8, device="cuda")
        _, checks = doctor(capsys, "--model", "demo", "--no-forward")
        del block
    assert checks["card"]["state"] == "warning"
    assert "3.0 GiB are in use before the checkpoint is loaded" in checks["card"]["found"]


def test_a_kernel_that_cannot_run_fails_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, checks = doctor(capsys, "--model", "demo", "--device", "cpu", "--attention", "torch-varlen")
    assert exit_code == 1 and failed(checks) == ["attention"]
    assert "--attention auto" in checks["attention"]["remedy"]


def test_compiled_layers_without_a_compiler_are_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = ("--model", "demo", "--device", "cpu", "--compile", "on", "--no-forward")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    exit_code, checks = doctor(capsys, *flags)
    assert exit_code == 0 and checks["compile"]["state"] == "warning"
    assert "a C++ compiler" in checks["compile"]["found"] and "--compile off" in checks["compile"]["remedy"]
    monkeypatch.setenv("CXX", sys.executable)  # a program; whether it compiles only the forward pass shows
    assert doctor(capsys, *flags)[1]["compile"]["details"]["compiler"] == sys.executable


def test_raster_workers_that_do_not_start_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    too_little = RasterLimits(processes=1, worker_memory_bytes=1 << 20)
    monkeypatch.setattr(doctor_checks, "raster_limits", lambda settings: too_little)
    exit_code, checks = doctor(capsys, "--model", "demo", "--device", "cpu")
    assert exit_code == 1 and failed(checks) == ["raster"]
    assert "ulimit" in checks["raster"]["remedy"]
    assert checks["forward"]["state"] == "skipped", "there are no pages to rank"


def test_without_fonts_the_report_names_packages_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(tmp_path))
    installed_fonts.cache_clear()
    try:
        exit_code, checks = doctor(capsys, "--model", "demo", "--device", "cpu", "--no-forward")
    finally:
        installed_fonts.cache_clear()
    assert exit_code == 0 and checks["fonts"]["state"] == "warning" and checks["fonts"]["details"]["fonts"] == 0
    assert "fonts-dejavu-core" in checks["fonts"]["remedy"]


def test_a_fault_of_a_library_does_not_hide_the_other_checks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: object, model_config: object, compute: object) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(doctor_checks, "examine_attention", fail)
    exit_code, checks = doctor(capsys, "--model", "demo", "--device", "cpu")
    assert exit_code == 1 and failed(checks) == ["attention"]
    assert checks["attention"]["found"] == "OSError: libcudart.so.13: cannot open shared object file"


def test_the_environment_counts_and_a_misspelt_variable_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIPRERANK_MODEL", "demo")
    monkeypatch.setenv("ZIPRERANK_DEVICE", "cpu")
    assert doctor(capsys, "--no-forward")[1]["checkpoint"]["details"]["name"] == "demo"
    monkeypatch.setenv("ZIPRERANK_MODLE", "demo")
    assert main(["doctor"]) == 2
    streams = capsys.readouterr()
    assert streams.out == "" and "did you mean ZIPRERANK_MODEL?" in streams.err
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--port", "80"])
    assert stop.value.code == 2, "a port decides nothing here"


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom service.cli import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass\n"
    subprocess.run(
        [sys.executable, "-c", f"{code}assert 'torch' not in sys.modules and 'model' not in sys.modules"],
        cwd=Path(__file__).parents[3],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_every_flag_of_the_doctor_is_a_setting() -> None:
    assert set(DOCTOR_SETTINGS) < set(Settings.model_fields)
