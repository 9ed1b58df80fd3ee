"""The arithmetic of a card's memory against every allocation of a forward pass on the fake card, and the choices made by it."""

from typing import Any

import numpy as np
import pytest
import torch

from model import BatchLimits, ConfigurationError, Reranker, RerankerConfig
from model.config import ModelConfig
from model.dataflow import PreparedPage, PreparedRequest
from model.device import Compute
from model.memory_plan import GIBIBYTE, batch_bytes, weight_bytes
from model.placement import Placement, place, plan_absent_card
from model.qwen3_vl.weights import build_network, expected_shapes
from tests.fake_card import FakeCard
from tests.published import make_reranker, published_model, read_published

TOLERANCE = 0.1  # of the peak that was counted
LONGEST = BatchLimits(tokens=37_300, patches=81_920)  # of a query of 4,096 characters
SHAPES = expected_shapes(build_network(read_published()))


@pytest.fixture(scope="module")
def model_config() -> ModelConfig:
    """The published widths; the last layer of the vision tower gives no DeepStack features, as in the whole tower."""
    return published_model(layers=5)


def request(reranker: Reranker, pages: int, keep_ratio: float, first: int) -> PreparedRequest:
    """Square pages of 1024 px that were never seen."""
    pixels = np.zeros((1024, 1024, 3), np.uint8)
    numbered = [
        PreparedPage(pixels=pixels, rows=32, columns=32, content_hash=(first + index).to_bytes(4, "big"))
        for index in range(pages)
    ]
    return reranker.prepare("a query", numbered, keep_ratio)


@pytest.mark.parametrize("scheme", ["none", "fp8", "int8"])
@pytest.mark.parametrize(
    ("requests", "is_known"),
    [([(20, 0.5)], False), ([(16, 1.0), (16, 1.0)], False), ([(16, 1.0), (16, 1.0)], True), ([(20, 0.05)] * 6, False)],
    ids=["a window", "a full batch", "a full batch of known pages", "many tokens of which few are kept"],
)
def test_a_batch_holds_as_much_as_was_planned(
    model_config: ModelConfig, scheme: str, requests: list[tuple[int, float]], is_known: bool
) -> None:
    with FakeCard(total_bytes=200 * GIBIBYTE) as card:
        reranker = make_reranker(
            card, model_config, quantise=scheme, feature_cache_gpu_bytes=4 * GIBIBYTE if is_known else 0
        )
        held = card.live_bytes
        batch = [request(reranker, *sizes, first=100 * index) for index, sizes in enumerate(requests)]
        for _ in range(2 if is_known else 1):
            card.reset_peak()
            reranker.score(batch)
        peak = card.peak_bytes - held
    limits = BatchLimits(
        tokens=sum(prepared.token_count for prepared in batch),
        patches=0 if is_known else sum(prepared.patch_count for prepared in batch),
    )
    assert batch_bytes(model_config, torch.bfloat16, scheme, limits) == pytest.approx(peak, rel=TOLERANCE)


@pytest.mark.parametrize("scheme", ["none", "fp8", "int8"])
def test_weights_take_as_much_as_was_planned(model_config: ModelConfig, scheme: str) -> None:
    with FakeCard(total_bytes=200 * GIBIBYTE) as card:
        before = card.live_bytes
        reranker = make_reranker(card, model_config, quantise=scheme)
        held = card.live_bytes - before
    assert reranker.quantise == scheme
    shapes = expected_shapes(build_network(model_config))
    head = shapes["lm_head.weight"][0] * shapes["lm_head.weight"][1] * 2  # the fake card's network has the whole head
    assert weight_bytes(shapes, model_config, torch.bfloat16, scheme) == pytest.approx(held - head, rel=0.01)


def test_the_published_checkpoint_takes_half_when_its_decoder_is_quantised() -> None:
    sizes = {
        scheme: weight_bytes(SHAPES, read_published(), torch.bfloat16, scheme) / GIBIBYTE for scheme in ("none", "int8")
    }
    assert sizes["none"] == pytest.approx(15.2, abs=0.1)  # 8.767 billion less the head's 0.622
    assert sizes["int8"] == pytest.approx(8.7, abs=0.1)


def place_on(card_bytes: int, *, capability: tuple[int, int] = (9, 0), **config: Any) -> Placement:
    """The published checkpoint on a card of that size, with nothing loaded. (What the card takes itself is not modelled.)"""
    dtype = torch.bfloat16 if capability >= (8, 0) else torch.float16
    with FakeCard(total_bytes=card_bytes, capability=capability):
        compute = Compute(device=torch.device("cuda", 0), dtype=dtype, reason="")
        return place(RerankerConfig(**config), read_published(), SHAPES, compute, LONGEST)


GB = 10**9


@pytest.mark.parametrize(
    ("card_gb", "capability", "scheme"),
    [
        (16, (7, 5), "int8"),  # T4
        (24, (8, 6), "int8"),  # A10G, RTX 3090
        (24, (8, 9), "fp8"),  # L4, RTX 4090
        (32, (12, 0), "none"),
        (40, (8, 0), "none"),
        (80, (9, 0), "none"),
    ],
    ids=str,
)
def test_auto_rounds_no_more_than_the_card_asks_for(card_gb: int, capability: tuple[int, int], scheme: str) -> None:
    placement = place_on(card_gb * GB, capability=capability)
    assert placement.quantise == scheme and placement.quantise_reason.startswith("auto:")
    assert placement.memory is not None and placement.memory.fits
    assert placement.memory.cache_bytes > 0


def test_page_features_get_all_that_is_left() -> None:
    plan = place_on(80 * GB).memory
    assert plan is not None
    assert plan.needed_bytes == plan.total_bytes
    assert plan.cache_bytes > 50 * GIBIBYTE


def test_a_small_card_gets_smaller_batches_which_hold_the_longest_window() -> None:
    large, small = place_on(80 * GB), place_on(int(14.7 * GIBIBYTE), capability=(7, 5))
    assert (large.batch.tokens, large.batch.patches) == (40_960, 131_072)
    assert small.batch.patches >= LONGEST.patches and small.batch.tokens >= LONGEST.tokens
    tight = place_on(int(13.7 * GIBIBYTE), capability=(7, 5))
    assert tight.batch == LONGEST


def test_a_card_that_is_too_small_is_refused_with_the_figures() -> None:
    with pytest.raises(ConfigurationError, match=r"too small.*int8: 8\.7 GiB of weights.*8\.0 GiB in all"):
        place_on(8 * GIBIBYTE)


def test_a_refusal_names_the_setting_that_would_fit() -> None:
    with pytest.raises(ConfigurationError, match=r"bfloat16: 15\.2 GiB.*quantise=fp8 would fit"):
        place_on(16 * GB, quantise="none")
    with pytest.raises(ConfigurationError, match=r"feature_cache_gpu_bytes of at most \d+ would fit"):
        place_on(24 * GB, quantise="int8", feature_cache_gpu_bytes=20 * GIBIBYTE)
    with pytest.raises(ConfigurationError, match=r"quantise is 'fp8', but .*8\.6.*Choose int8"):
        place_on(24 * GB, capability=(8, 6), quantise="fp8")


def test_budgets_that_are_set_are_kept() -> None:
    placement = place_on(80 * GB, max_batch_tokens=50_000, max_batch_patches=200_000, quantise="int8")
    assert (placement.batch.tokens, placement.batch.patches) == (50_000, 200_000)
    assert placement.quantise_reason == "as asked"


def test_a_cpu_has_no_plan_and_no_rounding() -> None:
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32, reason="")
    placement = place(RerankerConfig(), read_published(), SHAPES, compute, LONGEST)
    assert placement.memory is None and placement.quantise == "none"


def test_a_card_that_is_not_there_is_planned_with_its_context_and_a_reserve() -> None:
    plan = plan_absent_card(
        RerankerConfig(),
        read_published(),
        SHAPES,
        dtype=torch.bfloat16,
        quantise="none",
        card_bytes=80 * GB,
        largest_window=LONGEST,
    )
    assert plan.taken_bytes == 1.5 * GIBIBYTE and plan.fits
