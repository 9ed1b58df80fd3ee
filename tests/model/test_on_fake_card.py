"""The CUDA path rehearsed without a card: the published widths, four layers a tower, tensors without values.

What the fake card cannot show (the numbers, the speed, whether a kernel really takes its inputs) is in tests/gpu.
"""

import gc
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import DeviceMemoryError, Reranker, page_encoder, sequence_packer
from model.compressor import PageShare, select_tokens
from model.config import ModelConfig
from model.dataflow import PreparedRequest
from model.device import download
from model.feature_cache import FeatureCache
from model.qwen3_vl import vision_encoder
from model.qwen3_vl.language_model import RmsNorm, SwiGluMlp
from tests.compressors import Select, SelectedBy
from tests.fake_card import CardFault, FakeCard
from tests.published import make_reranker, published_model

LAYERS = 4  # of each tower: three that give DeepStack features, and one more

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


@pytest.fixture(scope="module")
def model_config() -> ModelConfig:
    return published_model(layers=LAYERS)


def make_requests(reranker: Reranker) -> list[PreparedRequest]:
    """Three requests over six pages of two sizes; the second and the third share pages with the first."""
    generator = np.random.default_rng(0)
    sizes = [(448, 320), (448, 320), (448, 320), (448, 320), (320, 448), (96, 320)]
    pages = [reranker.prepare_page(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    chosen = (pages[:3], pages[2:5], [pages[0], pages[5]])
    return [
        reranker.prepare("a query", list(some), ratio) for some, ratio in zip(chosen, (0.5, 1.0, 0.25), strict=True)
    ]


def without_staging(request: PreparedRequest) -> PreparedRequest:
    """As prepared for a CPU: the pixels are not in page-locked memory yet."""
    return replace(request, pages=tuple(replace(page, staged=None) for page in request.pages))


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
    assert set(card.kernel_calls) == CALLED[kernel]


CALLED = {
    "sdpa": {"sdpa", "sdpa unfused"},
    "varlen of torch 2.11": {"varlen_attn"},
    "varlen of torch 2.13": {"varlen_attn"},
    "flash-attn 2": {"flash_attn_2"},
    "flash-attn 3": {"flash_attn_3"},
}


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_eight_bit_products_neither_wait_nor_mix_devices(model_config: ModelConfig, scheme: str) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config, quantise=scheme)
        card.waits.clear()
        reranker.score(make_requests(reranker))
    assert card.faults == [] and len(card.waits) == card.downloads == 1


def test_kept_tokens_come_down_with_the_scores_in_one_copy_and_one_wait(model_config: ModelConfig) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config)
        first, second, third = make_requests(reranker)
        reporting = [replace(request, reports_kept_tokens=True) for request in (first, third)]
        card.waits.clear()
        pending = reranker.start([reporting[0], second, reporting[1]])
        assert card.waits == [] and not pending.is_complete
        answers = pending.wait()
        assert len(card.waits) == card.downloads == 1
        assert answers[1].kept is None
        for request, answer in zip(reporting, (answers[0], answers[2]), strict=True):
            assert answer.kept is not None
            sizes = [page.visual_token_count for page in request.pages]  # the fake card computes no values
            assert [len(kept.mask) for kept in answer.kept] == sizes
    assert card.faults == []


def test_pages_from_every_place_meet_in_one_batch(model_config: ModelConfig) -> None:
    """Known on the device, known on the host, and new."""
    with FakeCard() as card:
        sizes = {"feature_cache_gpu_bytes": 2 * PAGE_BYTES, "feature_cache_host_bytes": 2 * PAGE_BYTES}
        reranker = make_reranker(card, model_config, **sizes)
        first, _, third = make_requests(reranker)
        reranker.score([first])
        cache = reranker.feature_cache
        assert cache.device_tier.byte_count and cache.host_tier.byte_count and card.copies_to_host_tier
        [answer] = reranker.score([reranker.prepare("a", [*first.pages, *third.pages])])
        assert (answer.cached_pages, cache.device_hits, cache.host_hits) == (4, 2, 1)
    assert card.faults == [] and card.downloads == 2


def test_the_other_ways_to_the_card_have_no_fault(model_config: ModelConfig) -> None:
    """The kernel chosen by trying, warm-up, encoding ahead, stages that are timed, the report of memory."""
    with FakeCard(flash_attention=3) as card:
        sizes = {"feature_cache_gpu_bytes": None, "feature_cache_host_bytes": 2 * PAGE_BYTES}
        reranker = make_reranker(card, model_config, attention="auto", **sizes)
        assert {"flash_attn_3", "varlen_attn", "sdpa"} <= set(card.kernel_calls)
        reranker.warm_up()
        requests = make_requests(reranker)
        assert reranker.encode(requests[0].pages) == 3
        clock = reranker.stage_clock()
        reranker.score(requests, observe=clock.observe)
        assert {"upload", "vision", "compress", "pack", "language"} <= set(clock.seconds())
        assert reranker.device_memory()["allocated"] == card.live_bytes
        assert reranker.device_memory()["peak"] == card.peak_bytes
    assert card.faults == []


def test_a_batch_leaves_nothing_on_the_card(model_config: ModelConfig) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config)
        weights = sum(-(-weight.nbytes // 512) * 512 for weight in reranker.network.parameters())
        assert card.live_bytes - weights == reranker.letter_rows.nbytes
        before = card.live_bytes
        reranker.score(make_requests(reranker))
        assert card.live_bytes == before < card.peak_bytes


def test_a_batch_that_does_not_fit_is_refused_and_gives_its_memory_back(model_config: ModelConfig) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config)
        requests, before = make_requests(reranker), card.live_bytes
        card.memory.total_bytes = before + 2**20
        with pytest.raises(DeviceMemoryError):
            reranker.score(requests)
        gc.collect()
        assert card.live_bytes == before


# Faults planted in the product: the rehearsal would see them.


def select_by_host_index(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    return torch.arange(sum(page.kept for page in pages))


def select_by_value(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    assert similarity.max().item() <= 1
    return select_tokens(similarity, pages)


def select_if_any(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    return select_tokens(similarity, pages) if (similarity > 0).any() else similarity.argsort()


def select_by_list(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    return similarity.argsort()[: len(similarity.tolist()) // 2]


def select_by_mask(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    positions = torch.arange(len(similarity), device=similarity.device)
    return positions[similarity > 0.5]


def select_by_nonzero(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    return (similarity > 0.5).nonzero()[:, 0]


def select_on_the_host(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    return select_tokens(similarity.cpu(), pages).to(similarity.device)


def select_by_host_weights(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
    return select_tokens(similarity * torch.ones(len(similarity)), pages)


@pytest.mark.parametrize(
    ("select", "fault"),
    [
        (select_by_host_index, "host tensor .* is an index .*index_select"),
        (select_by_value, "The host reads"),
        (select_if_any, "The host reads"),
        (select_by_list, "The host reads"),
        (select_by_mask, "boolean mask is an index"),
        (select_by_nonzero, "The host reads .*nonzero"),
        (select_on_the_host, "copy to the host goes through pageable memory"),
        (select_by_host_weights, r"host tensor \(\d+,\) is mixed with device tensors.*mul"),
    ],
)
def test_a_selection_that_waits_or_mixes_devices_is_a_fault(
    model_config: ModelConfig, select: Select, fault: str
) -> None:
    with FakeCard() as card:
        reranker = replace(make_reranker(card, model_config), compressor=SelectedBy(select))
        requests = make_requests(reranker)
        with pytest.raises(CardFault, match=fault) as caught:
            reranker.start(requests)
        assert re.search(rf"test_on_fake_card.py:\d+ in {select.__name__}|dataflow.py:\d+ in gather", str(caught.value))
    assert len(card.faults) == 1


def pageable(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device, non_blocking=True)


def blocking(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.pin_memory().to(device)


def converting(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.pin_memory().to(device, torch.float32, non_blocking=True)


class OneStagingBuffer:
    """An upload that copies every tensor into the same pinned buffer, with torch or with NumPy."""

    def __init__(self, *, with_numpy: bool) -> None:
        self._buffer = torch.empty(2**20, dtype=torch.uint8, pin_memory=True)
        self._with_numpy = with_numpy

    def __call__(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        staged = self._buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        if self._with_numpy:
            np.copyto(staged.numpy(), tensor.numpy())
        else:
            staged.copy_(tensor)
        return staged.to(device, non_blocking=True)


@pytest.mark.parametrize(
    ("make_upload", "fault"),
    [
        (lambda: pageable, "copy to the device goes through pageable memory"),
        (lambda: blocking, "copy to the device is blocking"),
        (lambda: converting, "copy to the device changes dtype or layout"),
        (lambda: OneStagingBuffer(with_numpy=False), "pinned buffer is written before a copy is complete"),
        (lambda: OneStagingBuffer(with_numpy=True), "pinned buffer changed before a copy was complete"),
    ],
    ids=["pageable", "blocking", "converting", "one buffer", "one buffer with NumPy"],
)
@pytest.mark.parametrize("stage", [sequence_packer, page_encoder, vision_encoder])
def test_a_careless_upload_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
    model_config: ModelConfig,
    make_upload: Callable[[], Any],
    fault: str,
    stage: ModuleType,
) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config)
        requests = [without_staging(request) for request in make_requests(reranker)]
        monkeypatch.setattr(stage, "upload", make_upload())
        with pytest.raises(CardFault, match=fault):
            reranker.score(requests)


def test_scores_that_are_read_before_they_have_arrived_are_a_fault(model_config: ModelConfig) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config)
        pending = reranker.start(make_requests(reranker))
        with pytest.raises(CardFault, match="pinned buffer is read before a copy is complete"):
            pending.values.tensor.tolist()
        pending.wait()
        pending.values.tensor.tolist()


def mlp_in_float32(mlp: SwiGluMlp, hidden: torch.Tensor) -> torch.Tensor:
    gate, up, down = (layer.weight.float() for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    hidden = hidden.float()
    return F.linear(F.silu(F.linear(hidden, gate)) * F.linear(hidden, up), down).bfloat16()


def norm_to_float32(norm: RmsNorm, hidden: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden.float(), norm.weight.shape, norm.weight.float(), norm.eps)


def norm_heads_to_float32(norm: RmsNorm, hidden: torch.Tensor) -> torch.Tensor:
    normed = F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.eps)
    return normed.float() if hidden.dim() == 3 else normed


@pytest.mark.parametrize(
    ("part", "forward", "fault"),
    [
        (SwiGluMlp, mlp_in_float32, "product of torch.float32 and torch.float32.*in mlp_in_float32"),
        (RmsNorm, norm_to_float32, "product of torch.float32 and torch.bfloat16"),
        (RmsNorm, norm_heads_to_float32, "keys or values are torch.float32"),
    ],
)
def test_another_dtype_than_the_towers_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, model_config: ModelConfig, part: type, forward: Callable[..., Any], fault: str
) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config)
        requests = make_requests(reranker)
        monkeypatch.setattr(part, "forward", forward)
        with pytest.raises(CardFault, match=fault):
            reranker.start(requests)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "sdpa"])
def test_boundaries_that_stay_on_the_host_are_a_fault(model_config: ModelConfig, kernel: str) -> None:
    name, software = KERNELS[kernel]
    with FakeCard(**software) as card:
        reranker = make_reranker(card, model_config, attention=name)
        careless = replace(reranker.text_attention, boundaries_on_host=True)
        with pytest.raises(CardFault, match="boundaries are not on the device"):
            replace(reranker, text_attention=careless).start(make_requests(reranker))


def test_a_synchronisation_and_a_second_download_are_counted(model_config: ModelConfig) -> None:
    def select_with_a_look(similarity: torch.Tensor, pages: Sequence[PageShare]) -> torch.Tensor:
        download(similarity).wait()
        torch.cuda.synchronize()
        return select_tokens(similarity, pages)

    with FakeCard() as card:
        reranker = replace(make_reranker(card, model_config), compressor=SelectedBy(select_with_a_look))
        requests = make_requests(reranker)
        card.waits.clear()
        reranker.start(requests)
        assert card.downloads == 2
        assert [wait.split(",")[0] for wait in card.waits] == ["Event.synchronize", "torch.cuda.synchronize"]


def test_a_cache_that_is_freed_while_the_card_reads_it_is_a_fault(model_config: ModelConfig) -> None:
    with FakeCard() as card:
        reranker = make_reranker(card, model_config, feature_cache_host_bytes=16 * PAGE_BYTES)
        requests = make_requests(reranker)
        reranker.score(requests)
        pending = reranker.start(requests)
        reranker = replace(reranker, feature_cache=cast(FeatureCache, None))  # which no step reads any more
        gc.collect()
        assert pending.wait() and "Registered memory is freed before a copy is complete" in card.faults[0]


def test_pages_are_staged_while_they_are_prepared(model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the scoring thread copies no pixels; pages whose features are known need none."""
    with FakeCard() as card:
        reranker = make_reranker(card, model_config, feature_cache_gpu_bytes=16 * PAGE_BYTES)
        [request, *_] = make_requests(reranker)
        assert all(page.staged is not None and page.staged.is_pinned() for page in request.pages)
        assert all(np.array_equal(page.host_pixels.numpy(), page.pixels) for page in request.pages)
        pinned: list[torch.Size] = []
        pin_memory = torch.Tensor.pin_memory

        def pin_and_note(tensor: torch.Tensor, *more: Any) -> torch.Tensor:
            pinned.append(tensor.shape)
            return pin_memory(tensor, *more)

        monkeypatch.setattr(torch.Tensor, "pin_memory", pin_and_note)
        reranker.score([request])
        assert not any(len(shape) == 3 for shape in pinned), "no pixels"
        again = reranker.prepare("another query", request.pages)
        assert (
            reranker.prepare("another query", [replace(page, staged=None) for page in request.pages]).pages[0].staged
            is None
        )
        reranker.score([again])
    assert card.faults == []
