"""Shared by all tests: a loaded reranker, and the rule for tests that need a GPU. Imports torch only when a test needs it."""

import hashlib
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from model import Reranker


def pytest_configure() -> None:
    _use_one_thread()
    _hear_ctrl_c()
    _compile_for_this_cpu()


def _use_one_thread() -> None:
    """One thread for torch, in this process and in services, unless the environment says otherwise.

    Threads of one computation wait for each other. On a machine with other work each wait lasts until the scheduler gives the
    last of them its turn, and the tests, whose models are small, take many times as long.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _hear_ctrl_c() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _compile_for_this_cpu() -> None:
    """Keep compiled layers by the CPU's abilities: torch also takes those for others from its cache, and they gave NaN."""
    cpu = Path("/proc/cpuinfo").read_text().partition("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    flags = [line for line in cpu.splitlines() if line.startswith(("model name", "flags"))]
    abilities = repr((flags, os.environ.get("ATEN_CPU_CAPABILITY", "")))
    name = f"ziprerank-tests-{getattr(os, 'getuid', int)()}-{hashlib.sha256(abilities.encode()).hexdigest()[:12]}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / name))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests skip without CUDA, but not where REQUIRE_GPU=1: a GPU machine must not pass by skipping."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items or os.environ.get("REQUIRE_GPU") == "1" or _has_cuda():
        return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device (make test-gpu runs these)"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def logging_of_one_test() -> Iterator[None]:
    """Undo the logging of a command that a test runs in this process: its stream is closed when the test ends."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)


@pytest.fixture(scope="session")
def reranker() -> "Reranker":
    """The small conformance checkpoint on the CPU in float32, without pruning and without a feature cache."""
    from model import Reranker, RerankerConfig
    from tests.conformance import CHECKPOINT

    config = RerankerConfig(device="cpu", dtype="float32", keep_ratio=1.0, feature_cache_gpu_bytes=0)
    return Reranker.from_checkpoint(str(CHECKPOINT), config)
