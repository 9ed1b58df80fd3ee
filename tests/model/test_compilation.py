"""Compiled layers: one graph a tower for every length, and the same scores."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model import Reranker, RerankerConfig, compilation
from model.compilation import LayerRunner, choose_runner, run_layer
from model.device import Compute

LENGTHS = [[(96, 128)], [(320, 224), (64, 64)], [(448, 320)] * 3, [(1024, 724)], [(64, 64)]]


def make_reranker(**config: Any) -> Reranker:
    settings = RerankerConfig(device="cpu", dtype="float32", feature_cache_gpu_bytes=0, **config)
    return Reranker.from_checkpoint("demo", settings)


def logits(reranker: Reranker, sizes: list[tuple[int, int]]) -> tuple[float, ...]:
    pages = [np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    [answer] = reranker.score([reranker.prepare("which page?", pages, 0.5)])
    return answer.logits


def test_one_graph_a_tower_serves_every_length() -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    run = torch.compile(run_layer, dynamic=True, fullgraph=True, backend=graphs)
    eager = make_reranker()
    runner = LayerRunner("layers", run, is_compiled=True)
    compiled = replace(eager, run_vision_block=runner, run_decoder_layer=runner)
    counts = []
    for sizes in LENGTHS:
        assert logits(compiled, sizes) == pytest.approx(logits(eager, sizes), abs=1e-5)
        counts.append(len(graphs.graphs))
    assert counts == [counts[0]] * len(LENGTHS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fused_layers_give_the_same_scores() -> None:
    """With the real compiler, whose kernels round differently by the last bits, of logits up to 14."""
    torch._dynamo.reset()
    for sizes in LENGTHS[:2]:
        assert logits(make_reranker(compile=True), sizes) == pytest.approx(logits(make_reranker(), sizes), abs=3e-4)


ON_CPU = Compute(device=torch.device("cpu"), dtype=torch.float32, reason="")
ON_CARD = Compute(device=torch.device("cuda", 0), dtype=torch.bfloat16, reason="")


@pytest.mark.parametrize(
    ("compute", "triton", "capability", "is_compiled", "reason"),
    [
        (ON_CPU, True, (9, 0), False, "on a CPU compilation is slow"),
        (ON_CARD, True, (9, 0), True, "fused layers are faster"),
        (ON_CARD, False, (9, 0), False, "Triton is not installed"),
        (ON_CARD, True, (6, 1), False, "compute capability 7.0"),
    ],
    ids=["cpu", "card", "no triton", "old card"],
)
def test_auto_compiles_on_a_card_that_can(
    monkeypatch: pytest.MonkeyPatch,
    compute: Compute,
    triton: bool,
    capability: tuple[int, int],
    is_compiled: bool,
    reason: str,
) -> None:
    monkeypatch.setattr(compilation, "has_triton_package", lambda: triton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    runner = choose_runner("auto", compute, "layers")
    assert runner.is_compiled is is_compiled and reason in runner.reason


def test_fp8_without_compiled_layers_says_that_it_is_slow() -> None:
    assert "slower than bfloat16" in choose_runner(False, ON_CARD, "layers", is_fp8=True).reason
    assert "slower" not in choose_runner(False, ON_CPU, "layers", is_fp8=True).reason


def test_a_compiler_that_fails_leaves_the_layers_as_they_are_written() -> None:
    calls: list[int] = []

    def broken(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        raise torch._inductor.exc.InductorError(OSError("gcc is missing\nsecond line"), None)

    eager = make_reranker()
    runner = LayerRunner("layers", broken, is_compiled=True)
    broken_reranker = replace(eager, run_vision_block=runner, run_decoder_layer=runner)
    assert logits(broken_reranker, [(96, 128)]) == logits(eager, [(96, 128)])
    assert len(calls) == 1, "not tried again for every layer"
    assert not runner.is_compiled
    assert "torch.compile failed (InductorError" in runner.reason and "gcc is missing" in runner.reason
    assert "second line" not in runner.reason


def test_a_layer_that_is_at_fault_itself_keeps_the_compiler_and_raises() -> None:
    def failing(*arguments: Any) -> torch.Tensor:
        raise ValueError("shapes differ")

    class Layer(torch.nn.Module):
        def forward(self, *arguments: Any) -> torch.Tensor:
            raise ValueError("shapes differ")

    runner = LayerRunner("layers", failing, is_compiled=True)
    with pytest.raises(ValueError, match="shapes differ"):
        runner(Layer(), torch.ones(1), torch.ones(1), torch.ones(1), None)  # type: ignore[arg-type]
    assert runner.is_compiled


def test_a_device_out_of_memory_is_no_fault_of_the_compiler() -> None:
    def full(*arguments: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    runner = LayerRunner("layers", full, is_compiled=True)
    with pytest.raises(torch.OutOfMemoryError):
        runner(torch.nn.Identity(), torch.ones(1), torch.ones(1), torch.ones(1), None)  # type: ignore[arg-type]
    assert runner.is_compiled


def test_the_first_compiled_call_is_timed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    runner = LayerRunner("vision blocks", lambda layer, hidden, cos, sin, attend: hidden, is_compiled=True)
    with caplog.at_level("INFO", logger="model.compilation"):
        for _ in range(3):
            runner(torch.nn.Identity(), torch.ones(1), torch.ones(1), torch.ones(1), None)  # type: ignore[arg-type]
    assert [record.message.partition(" the ")[0] for record in caplog.records] == ["compiling", "compiled"]
    assert runner.seconds is not None


def test_layers_run_as_they_are_written_on_a_cpu() -> None:
    assert not make_reranker().run_decoder_layer.is_compiled
    assert make_reranker(compile=True).run_decoder_layer.is_compiled
