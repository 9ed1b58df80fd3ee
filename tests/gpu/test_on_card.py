"""What only a card can show. `make test-gpu` runs these with REQUIRE_GPU=1, so that nothing passes by being skipped."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.workloads import make_reranker as make_random_reranker
from benchmarks.workloads import model_shape, random_network, with_fewer_layers
from model import BatchLimits, Reranker, RerankerConfig
from model.attention import AttentionWorkload, choose_attention, make_kernel, time_attention
from model.attention_kernels import KERNELS, unavailable_reason
from model.checkpoint import read_model_config
from model.device import Compute, choose_compute
from model.memory_plan import batch_bytes
from model.quantisation import Fp8Linear, Int8Linear, quantise_obstacle
from model.qwen3_vl.vision_encoder import linear_gelu
from model.qwen3_vl.weights import load_network
from tests.closeness import assert_bfloat16_is_close
from tests.conformance import CASES, CHECKPOINT, TOLERANCE, WINDOW_CASES, Case, WindowCase
from tests.oracle import load_oracle
from tests.waiting import waiting_is_an_error
from tests.written_out_attention import run

pytestmark = [
    pytest.mark.gpu,
    # torch.compile recommends TF32 for float32 products when it is first used; we want them exact.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch.compile and Triton among themselves
]

KERNEL_TOLERANCE = 2e-2  # bfloat16 inputs of size 1: eight bits of mantissa
COMPILED_TOLERANCE = 0.1  # bfloat16 through all layers, rounded in other places
ON_CARD = Compute(device=torch.device("cuda", 0), dtype=torch.bfloat16, reason="the card under test")


@pytest.fixture(scope="module")
def card() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def exact() -> Reranker:
    return make_reranker("float32")


@pytest.fixture(scope="module")
def half() -> Reranker:
    return make_reranker("bfloat16")


def make_reranker(dtype: str, **config: Any) -> Reranker:
    """Without caches and compiled layers unless a test asks for them."""
    plain = {"feature_cache_gpu_bytes": 0, "feature_cache_host_bytes": 0, "compile": False}
    settings = RerankerConfig(device="cuda", dtype=dtype, keep_ratio=1.0, **{**plain, **config})
    return Reranker.from_checkpoint(str(CHECKPOINT), settings)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_scores_are_the_published_ones(exact: Reranker, case: Case) -> None:
    ranking = exact.rank(case.query, case.pages(), case.keep_ratio)
    assert ranking.logits == pytest.approx(case.scores, abs=TOLERANCE)
    assert ranking.order == case.ranking


@pytest.mark.parametrize("case", WINDOW_CASES, ids=lambda case: case.name)
def test_windows_give_the_published_order(case: WindowCase) -> None:
    reranker = make_reranker("float32", window_size=case.window_size, stride=case.stride)
    ranking = reranker.rank(case.query, case.pages())
    assert ranking.order == case.ranking


def test_packed_requests_score_as_each_does_alone(exact: Reranker) -> None:
    cases = [case for case in CASES if not case.is_resized]
    requests = [exact.prepare(case.query, case.pages(), case.keep_ratio) for case in cases]
    for request, packed in zip(requests, exact.score(requests), strict=True):
        assert packed.logits == pytest.approx(exact.score([request])[0].logits, abs=1e-5)


@pytest.mark.parametrize("pruned", [False, True], ids=["r=1", "r<1"])
def test_bfloat16_is_as_close_to_float32_as_transformers_own_run(
    exact: Reranker, half: Reranker, card: torch.device, pruned: bool
) -> None:
    oracle = load_oracle(CHECKPOINT, dtype=torch.bfloat16, device=card)
    assert_bfloat16_is_close(exact, half, oracle, [case for case in CASES if bool(case.kept) == pruned])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("heads", "head_dim", "causal"), [((16, 16), 72, False), ((32, 8), 128, True), ((4, 2), 12, True)], ids=str
)
def test_every_kernel_computes_attention(
    card: torch.device, name: str, heads: tuple[int, int], head_dim: int, causal: bool
) -> None:
    obstacle = unavailable_reason(name, ON_CARD, head_dim)
    if obstacle and name.startswith("flash-attn"):
        pytest.skip(f"{name}: {obstacle}")  # the optional kernels
    assert obstacle is None
    kernel = make_kernel(name)
    lengths = [(300, 300), (1, 1), (77, 77)]
    shapes = [lengths, [(1, 300), (1, 77)], [(5, 64)]] if causal else [lengths]
    for shape in shapes:
        out, expected = run(
            kernel, shape, heads=heads, head_dim=head_dim, causal=causal, device=card, dtype=torch.bfloat16
        )
        torch.testing.assert_close(out.float(), expected, atol=KERNEL_TOLERANCE, rtol=KERNEL_TOLERANCE)


@pytest.mark.parametrize("causal", [False, True])
def test_auto_takes_the_kernel_that_was_fastest_when_tried(causal: bool) -> None:
    lengths = (1000,) if causal else (736,) * 4
    workload = AttentionWorkload(heads=8, key_value_heads=8, head_dim=72, lengths=lengths, causal=causal)
    kernel = choose_attention("auto", workload, ON_CARD)
    assert "the fastest of" in kernel.reason
    able = [name for name in KERNELS if unavailable_reason(name, ON_CARD, 72) is None]
    seconds = {name: time_attention(make_kernel(name), workload, ON_CARD) for name in able}
    assert seconds[kernel.name] <= 1.5 * min(seconds.values())  # a second timing, a little luck


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "sdpa"])
def test_float32_takes_sdpa(name: str) -> None:
    compute = choose_compute("cuda", "float32")
    workload = AttentionWorkload(heads=2, key_value_heads=2, head_dim=64, lengths=(8,), causal=True)
    assert unavailable_reason(name, compute, 64)
    assert choose_attention("auto", workload, compute).name == "sdpa"


@pytest.mark.parametrize(
    "config", [{}, {"feature_cache_gpu_bytes": 1 << 24}, {"quantise": "fp8"}, {"quantise": "int8"}], ids=str
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_synchronisation_a_batch(dtype: str, config: dict[str, Any]) -> None:
    """Nothing between the first upload and the final copy of the scores waits for the card."""
    if "quantise" in config and quantise_obstacle(config["quantise"], choose_compute("cuda", dtype)):
        pytest.skip("the card has no such products in this dtype")
    reranker = make_reranker(dtype, **config)
    case = next(case for case in CASES if case.name == "five_small-0.25")
    request = reranker.prepare(case.query, case.pages(), case.keep_ratio)
    [expected, _] = reranker.score([request, request])  # libraries are loaded, pinned memory is there
    for _ in range(2):
        reranker.feature_cache.reset()
        [answer, _] = reranker.score([request, request], observe=waiting_is_an_error)  # misses
        assert answer.order == expected.order
        [answer, _] = reranker.score([request, request], observe=waiting_is_an_error)  # hits, where there is a cache
        assert answer.order == expected.order


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_kept_tokens_come_down_without_another_wait(dtype: str) -> None:
    reranker = make_reranker(dtype)
    case = next(case for case in CASES if case.name == "five_small-0.25")
    silent = reranker.prepare(case.query, case.pages(), case.keep_ratio)
    reporting = replace(silent, reports_kept_tokens=True)
    [expected, _] = reranker.score([reporting, silent])  # libraries are loaded, pinned memory is there
    with waiting_is_an_error("start"):
        pending = reranker.start([reporting, silent])
    [told, untold] = pending.wait()
    assert told.kept == expected.kept
    assert told.kept is not None
    assert [sum(kept.mask) for kept in told.kept] == list(silent.kept_counts)
    assert untold.kept is None


@pytest.mark.parametrize("sizes", [(1 << 26, 0), (0, 1 << 26), (1 << 21, 1 << 26)], ids=["gpu", "host", "both"])
def test_hits_give_the_bits_of_misses_from_either_tier(sizes: tuple[int, int]) -> None:
    reranker = make_reranker("bfloat16", feature_cache_gpu_bytes=sizes[0], feature_cache_host_bytes=sizes[1])
    for case in CASES:
        request = reranker.prepare(case.query, case.pages(), case.keep_ratio)
        reranker.feature_cache.reset()
        [miss], [hit] = reranker.score([request]), reranker.score([request])
        assert miss.logits == hit.logits
    assert reranker.feature_cache.hits > 0
    assert reranker.feature_cache.device_tier.byte_count <= sizes[0]
    assert reranker.feature_cache.host_tier.byte_count <= sizes[1]


def test_the_host_tier_is_pinned_and_not_rounded_up() -> None:
    reranker = make_reranker("bfloat16", feature_cache_host_bytes=(1 << 24) + (1 << 20))
    tier = reranker.feature_cache.host_tier
    assert tier._memory.is_pinned()
    assert tier.byte_limit <= (1 << 24) + (1 << 20)


def test_compiled_layers_score_alike(half: Reranker) -> None:
    compiled = make_reranker("bfloat16", compile="auto")
    for case in CASES[:6]:
        request = half.prepare(case.query, case.pages(), case.keep_ratio)
        [ours], [eager] = compiled.score([request]), half.score([request])
        assert ours.logits == pytest.approx(eager.logits, abs=COMPILED_TOLERANCE)
    for runner in (compiled.run_vision_block, compiled.run_decoder_layer):
        assert runner.is_compiled, runner.reason


def test_products_of_eight_bit_floats_are_those_of_the_rounded_values(card: torch.device) -> None:
    if quantise_obstacle("fp8", ON_CARD):
        pytest.skip("the card has no products of 8-bit floats")
    torch.manual_seed(0)
    weight = torch.randn(128, 256, dtype=torch.bfloat16) / 16
    x = torch.randn(50, 256, dtype=torch.bfloat16)
    expected = Fp8Linear(weight)(x)
    out = Fp8Linear(weight.to(card))(x.to(card))
    torch.testing.assert_close(out.cpu(), expected, atol=KERNEL_TOLERANCE, rtol=KERNEL_TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_weights_are_turned_back_without_another_copy(card: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2048, 2048, dtype=dtype) / 45
    x = torch.randn(50, 2048, dtype=dtype)
    linear, on_card = Int8Linear(weight.to(card)), x.to(card)
    out = linear(on_card)
    torch.testing.assert_close(out.cpu(), Int8Linear(weight)(x), atol=KERNEL_TOLERANCE, rtol=KERNEL_TOLERANCE)
    before = torch.cuda.memory_allocated(card)
    torch.cuda.reset_peak_memory_stats(card)
    turned_back = linear._weight_as(dtype)
    assert torch.cuda.max_memory_allocated(card) - before <= turned_back.nbytes + 2**16  # and the scales


@pytest.mark.parametrize("quantise", ["none", "fp8", "int8"])
def test_loading_takes_no_more_memory_than_the_network_and_a_tensor(card: torch.device, quantise: str) -> None:
    if quantise_obstacle(quantise, ON_CARD):
        pytest.skip("the card has no such products")
    model_config = read_model_config(CHECKPOINT)
    before = torch.cuda.memory_allocated(card)
    torch.cuda.reset_peak_memory_stats(card)
    network = load_network(CHECKPOINT, model_config, ON_CARD, quantise=quantise, head_rows=(1, 2))
    held = torch.cuda.memory_allocated(card) - before
    largest = max(tensor.numel() for tensor in network.state_dict().values())
    # In float32, which rounding needs; and each tensor's last block of 512 bytes.
    assert torch.cuda.max_memory_allocated(card) - before <= held + 2 * 4 * largest + 2**16


def test_batches_run_side_by_side_and_end_in_order(half: Reranker) -> None:
    case = next(case for case in CASES if case.name == "five_small-0.25")
    request = half.prepare(case.query, case.pages(), case.keep_ratio)
    [expected] = half.score([request])
    first, second = half.start([request]), half.start([request])
    assert first.wait() == second.wait() == [expected]
    assert first.is_complete and second.is_complete


def test_a_warm_up_makes_the_plans_and_forgets_its_pages(half: Reranker) -> None:
    assert half.warm_up().is_finite
    assert half.feature_cache.byte_count == half.feature_cache.misses == 0


def test_stages_are_timed_on_the_card(half: Reranker) -> None:
    case = next(case for case in CASES if case.name == "five_small-0.25")
    clock = half.stage_clock()
    half.score([half.prepare(case.query, case.pages(), case.keep_ratio)], observe=clock.observe)
    before = time.perf_counter()
    seconds, intervals, after = clock.seconds(), clock.intervals(), time.perf_counter()
    assert all(0 < value < 10 for value in seconds.values())
    ends = [interval.started + interval.seconds for interval in intervals]
    assert [interval.stage for interval in intervals][-1] == "language" and ends == sorted(ends)
    assert all(before - 10 < interval.started for interval in intervals) and ends[-1] <= after


def test_device_memory_is_reported(half: Reranker) -> None:
    assert set(half.device_memory()) == {"allocated", "reserved", "peak"}
    assert half.device_memory()["allocated"] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_gelu_in_a_products_epilogue_is_the_tanh_approximation(card: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 96, device=card, dtype=dtype)
    x = torch.randn(300, 64, device=card, dtype=dtype)
    with torch.inference_mode():
        expected = torch.nn.functional.gelu(linear.double()(x.double()), approximate="tanh")
        out = linear_gelu(linear.to(dtype), x)
    tolerance = 1e-4 if dtype == torch.float32 else KERNEL_TOLERANCE
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("scheme", ["none", "int8", "fp8"])
def test_a_batch_takes_as_much_memory_as_was_planned(card: torch.device, scheme: str) -> None:
    """At the published widths, where the plan has been compared with a card that counts every allocation."""
    if quantise_obstacle(scheme, ON_CARD):
        pytest.skip(f"the card cannot run {scheme}")
    config = RerankerConfig(
        device="cuda", quantise=scheme, compile=False, feature_cache_gpu_bytes=0, feature_cache_host_bytes=0
    )
    model_config = with_fewer_layers(model_shape("published"), 5)
    reranker = make_random_reranker(config, model_config, random_network(model_config, ON_CARD))
    page = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    request = reranker.prepare("which page?", [page + np.uint8(shade) for shade in range(16)], 1.0)
    reranker.score([request])  # libraries take their workspaces
    held = torch.cuda.memory_allocated(card)
    torch.cuda.reset_peak_memory_stats(card)
    reranker.score([request])
    peak = torch.cuda.max_memory_allocated(card) - held
    limits = BatchLimits(tokens=request.token_count, patches=request.patch_count)
    assert batch_bytes(model_config, ON_CARD.dtype, scheme, limits) == pytest.approx(peak, rel=0.15)
