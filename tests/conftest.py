"""What the tests share: the conformance data, a loaded reranker, and the rule for tests that need a GPU."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from model import Reranker, RerankerConfig
from tests.conformance import CHECKPOINT


def pytest_configure() -> None:
    _hear_ctrl_c()
    _compile_for_this_cpu()


def _hear_ctrl_c() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _compile_for_this_cpu() -> None:
    """Keep compiled layers by the CPU's abilities: torch also takes those for others from its cache, and they gave NaN."""
    name = f"ziprerank-tests-compiled-{getattr(os, 'getuid', int)()}-{torch.backends.cpu.get_cpu_capability()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / name))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests skip without CUDA, but not where REQUIRE_GPU=1: a GPU machine must not pass by skipping."""
    if torch.cuda.is_available() or os.environ.get("REQUIRE_GPU") == "1":
        return
    skip = pytest.mark.skip(reason="needs a CUDA device (make test-gpu runs these)")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def reranker() -> Reranker:
    """The small conformance checkpoint on the CPU in float32; no pruning unless a test asks for it, and nothing remembered."""
    config = RerankerConfig(device="cpu", dtype="float32", keep_ratio=1.0, feature_cache_gpu_bytes=0)
    return Reranker.from_checkpoint(str(CHECKPOINT), config)
