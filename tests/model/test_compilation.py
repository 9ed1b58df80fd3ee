"""Compiled layers: one graph a tower for every length, and the same scores."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model import Reranker, RerankerConfig
from model.compilation import choose_runner, run_layer

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
    compiled = replace(eager, run_vision_block=run, run_decoder_layer=run)
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


def test_layers_run_as_they_are_unless_asked_otherwise() -> None:
    assert choose_runner(False) is run_layer
    assert make_reranker().run_decoder_layer is run_layer
