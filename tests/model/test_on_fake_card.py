"""The CUDA path rehearsed without a card: the published widths, four layers a tower, tensors without values.

What the fake card cannot show (the numbers, the speed, whether a kernel really takes its inputs) is in tests/gpu.
"""

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model import Reranker, RerankerConfig
from model.checkpoint import load_tokenizer, read_model_config
from model.config import ModelConfig
from model.dataflow import PreparedRequest
from model.device import Compute, choose_compute
from model.network import Network
from model.weights import build_network
from tests.conformance import CHECKPOINT
from tests.fake_card import FakeCard

LAYERS = 4  # of each tower: three that give DeepStack features, and one more
PUBLISHED = Path(__file__).parents[1] / "data" / "published_config.json"

KERNELS: dict[str, tuple[str, dict[str, Any]]] = {
    "sdpa": ("sdpa", {"varlen": None}),
    "varlen of torch 2.11": ("torch-varlen", {"varlen": "2.11"}),
    "varlen of torch 2.13": ("torch-varlen", {"varlen": "2.13"}),
    "flash-attn 2": ("flash-attn", {"flash_attention": 2}),
    "flash-attn 3": ("flash-attn", {"flash_attention": 3}),
}
"""What the configuration asks for, and the card's software."""

PAGE_BYTES = 140 * 4 * 4096 * 2  # of a page of 448 x 320 px: tokens, levels, width, bfloat16
CACHES = {
    "off": (0, 0),
    "device": (16 * PAGE_BYTES, 0),
    "host": (0, 16 * PAGE_BYTES),
    "both": (2 * PAGE_BYTES, 16 * PAGE_BYTES),
}
"""Bytes on the device and on the host."""

QUANTISED = (
    [{"fp8": True}]
    if any(field.name == "fp8" for field in fields(RerankerConfig))
    else [
        {"quantise": "fp8"},
        {"quantise": "int8"},
    ]
)


@pytest.fixture(scope="module")
def model_config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """The published sizes with few layers, and the markers of the small checkpoint's tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(PUBLISHED, folder / "config.json")
    shutil.copy(CHECKPOINT / "preprocessor_config.json", folder)
    published, small = read_model_config(folder), read_model_config(CHECKPOINT)
    return replace(
        published,
        vision=replace(published.vision, depth=LAYERS, deepstack_visual_indexes=(0, 1, 2)),
        text=replace(published.text, num_hidden_layers=LAYERS),
        image_token_id=small.image_token_id,
        vision_start_token_id=small.vision_start_token_id,
    )


def make_reranker(card: FakeCard, model_config: ModelConfig, **config: Any) -> Reranker:
    """On the fake card, without a cache unless a test asks for one."""
    settings = {"attention": "torch-varlen", "feature_cache_gpu_bytes": 0, "feature_cache_host_bytes": 0, **config}
    with card.waiting_allowed():
        compute = choose_compute("auto", "auto")
        assert (str(compute.device), compute.dtype) == ("cuda:0", torch.bfloat16)
        return Reranker.assemble(
            RerankerConfig(**settings),
            model_config,
            compute,
            load_tokenizer(CHECKPOINT),
            lambda: make_network(model_config, compute),
        )


def make_network(model_config: ModelConfig, compute: Compute) -> Network:
    """Weights without values on the card."""
    network = build_network(model_config)
    for name, parameter in list(network.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        weight = torch.empty(parameter.shape, dtype=compute.dtype, device=compute.device)
        setattr(network.get_submodule(owner), attribute, nn.Parameter(weight, requires_grad=False))
    return network.eval()


def make_requests(reranker: Reranker) -> list[PreparedRequest]:
    """Three requests over six pages of two sizes; the second and the third share pages with the first."""
    generator = np.random.default_rng(0)
    sizes = [(448, 320), (448, 320), (448, 320), (448, 320), (320, 448), (96, 320)]
    pages = [reranker.prepare_page(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    chosen = (pages[:3], pages[2:5], [pages[0], pages[5]])
    return [
        reranker.prepare("a query", list(some), ratio) for some, ratio in zip(chosen, (0.5, 1.0, 0.25), strict=True)
    ]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_two_batches_run_side_by_side_without_waiting_and_with_one_download_each(
    model_config: ModelConfig, kernel: str, cache: str
) -> None:
    name, software = KERNELS[kernel]
    device_bytes, host_bytes = CACHES[cache]
    with FakeCard(**software) as card:
        reranker = make_reranker(
            card,
            model_config,
            attention=name,
            feature_cache_gpu_bytes=device_bytes,
            feature_cache_host_bytes=host_bytes,
        )
        first, second, third = make_requests(reranker)
        for is_known in (False, cache != "off"):
            card.waits.clear()
            before = card.downloads
            pending = [reranker.start([first, second]), reranker.start([third])]
            assert card.waits == [] and not pending[0].is_complete
            answers = [answer for batch in pending for answer in batch.wait()]
            assert len(card.waits) == card.downloads - before == 2
            assert [len(answer.logits) for answer in answers] == [3, 3, 2]
            assert all(answer.cached_pages == len(answer.logits) for answer in answers) or not is_known
    assert card.faults == []
    assert sum(card.kernel_calls.values()) >= 2 * 4 * LAYERS - 8
