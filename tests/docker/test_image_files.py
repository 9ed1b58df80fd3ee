"""The image's parts that need no build: locks, health check, bill of materials. The build itself: `make image-check`."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

PROJECT = Path(__file__).parents[2]
DOCKER = PROJECT / "docker"
EXTRAS = {"cuda": ["otel", "s3"], "cpu": ["otel", "s3"], "ray": ["otel", "s3", "ray"]}


def locked(variant: str) -> dict[str, str]:
    """Version by name. Every line of a lock is a pin or a hash of the pin above it."""
    text = (DOCKER / f"requirements-{variant}.lock").read_text()
    entries = re.findall(r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert sum(1 + hashes.count("\n") for _, _, hashes in entries) == text.count("\n"), "a line without a hash"
    return {plain(name): version for name, version, _ in entries}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    return {plain(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}


@pytest.mark.parametrize("variant", EXTRAS)
def test_the_lock_has_every_dependency_at_the_tested_version(variant: str) -> None:
    pins, tested = locked(variant), constraints()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS[variant] for line in optional[extra])]
    names = {plain(re.split(r"[<>=!~\[ ]", line, maxsplit=1)[0]) for line in wanted}
    assert names <= pins.keys()
    shared = pins.keys() & tested.keys()
    assert names <= shared
    assert {name: pins[name].partition("+")[0] for name in shared} == {name: tested[name] for name in shared}


def test_the_variants_differ_in_torch_and_what_it_brings_alone() -> None:
    cuda, cpu = locked("cuda"), locked("cpu")
    assert cpu.pop("torch") == f"{cuda.pop('torch')}+cpu"
    assert cpu.items() <= cuda.items()
    assert all(re.match("nvidia-|cuda-|triton", name) for name in cuda.keys() - cpu.keys())


def test_every_way_to_a_card_asks_for_it_by_name() -> None:
    """`auto` would run the model on the CPU where the card cannot be used; the CPU image asks for its CPU."""
    dockerfile = (PROJECT / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (runtime-\S+)\n(.*?)(?=^FROM )", dockerfile, re.MULTILINE | re.DOTALL))
    assert "ZIPRERANK_DEVICE=cuda" in stages["runtime-cuda"] and "ZIPRERANK_DEVICE=cpu" in stages["runtime-cpu"]
    deploy = PROJECT / "deploy"
    assert "ZIPRERANK_DEVICE=cuda\n" in (deploy / "kubernetes" / "base" / "settings.env").read_text()
    for name in ("config.yaml", "rayservice.yaml"):
        assert "ZIPRERANK_DEVICE: cuda\n" in (deploy / "ray" / name).read_text()
    gpu, cpu = (DOCKER / "compose.yaml").read_text().split("x-cpu:")
    assert "ZIPRERANK_DEVICE: cuda" in gpu and "ZIPRERANK_DEVICE: cpu" in cpu


@pytest.mark.parametrize(("architecture", "status"), [("amd64", 0), ("arm64", 0), ("", 0), ("riscv64", 1), ("386", 1)])
def test_the_build_is_refused_where_torch_has_no_wheels(architecture: str, status: int) -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    [check] = re.findall(r"^RUN (case \"\$\{TARGETARCH.*?esac)$", dockerfile, re.MULTILINE | re.DOTALL)
    script = check.replace("\\\n", "")
    done = subprocess.run(["sh", "-c", script], env={"TARGETARCH": architecture}, capture_output=True, text=True)
    assert done.returncode == status
    assert status == 0 or "linux/amd64 or linux/arm64" in done.stderr


def test_every_variant_has_fonts_for_the_usual_scripts() -> None:
    """Texts are drawn as pages. The stage below all variants installs them; `make image-check` looks for their letters."""
    dockerfile = (PROJECT / "Dockerfile").read_text()
    [runtime] = re.findall(r"^FROM \$\{BASE\} AS runtime\n(.*?)(?=^FROM )", dockerfile, re.MULTILINE | re.DOTALL)
    installed = re.findall(r"\b(fonts-[a-z-]+)=", runtime)
    assert sorted(installed) == ["fonts-dejavu-core", "fonts-noto-cjk", "fonts-noto-core"]
    assert re.findall(r"^FROM (\S+) AS (runtime-\S+)", dockerfile, re.MULTILINE) == [
        ("runtime", "runtime-cuda"), ("runtime-cuda", "runtime-ray"), ("runtime", "runtime-cpu"),
    ]  # fmt: skip


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a server that answers every request with `status`."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def health_check(port: int) -> int:
    """The exit code, started as the Dockerfile does."""
    command = [sys.executable, "-I", "-S", str(DOCKER / "healthcheck.py")]
    return subprocess.run(command, env={**os.environ, "ZIPRERANK_PORT": str(port)}, check=False).returncode


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (500, 1)])
def test_the_health_check_tells_what_livez_says(status: int, exit_code: int) -> None:
    with answering(status) as port:
        assert health_check(port) == exit_code


def test_the_health_check_fails_where_nobody_listens() -> None:
    with answering(200) as port:
        pass
    assert health_check(port) == 1
