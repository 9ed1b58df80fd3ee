"""What only a card can show. `make test-gpu` runs these with REQUIRE_GPU=1, so that nothing passes by being skipped."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from model import Reranker, RerankerConfig
from model.attention import AttentionWorkload, choose_attention, make_kernel, time_attention
from model.attention_kernels import KERNELS, why_not
from model.device import Compute, choose_compute
from tests.closeness import assert_bfloat16_is_close
from tests.conformance import CASES, CHECKPOINT, WINDOW_CASES, Case, WindowCase
from tests.model.test_attention import run
from tests.oracle import load_oracle

pytestmark = pytest.mark.gpu

KERNEL_TOLERANCE = 2e-2  # bfloat16 inputs of size 1: eight bits of mantissa


@pytest.fixture(scope="module")
def card() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def exact() -> Reranker:
    return Reranker.from_checkpoint(str(CHECKPOINT), RerankerConfig(device="cuda", dtype="float32", keep_ratio=1.0))


@pytest.fixture(scope="module")
def half() -> Reranker:
    return Reranker.from_checkpoint(str(CHECKPOINT), RerankerConfig(device="cuda", dtype="bfloat16", keep_ratio=1.0))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_scores_are_the_published_ones(exact: Reranker, case: Case) -> None:
    ranking = exact.rank(case.query, case.pages(), case.keep_ratio)
    assert ranking.logits == pytest.approx(case.scores, abs=case.tolerance)
    assert ranking.order == case.ranking


@pytest.mark.parametrize("case", WINDOW_CASES, ids=lambda case: case.name)
def test_windows_give_the_published_order(case: WindowCase) -> None:
    config = RerankerConfig(
        device="cuda", dtype="float32", keep_ratio=1.0, window_size=case.window_size, stride=case.stride
    )
    ranking = Reranker.from_checkpoint(str(CHECKPOINT), config).rank(case.query, case.pages())
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
    obstacle = why_not(name, device=card, dtype=torch.bfloat16, head_dim=head_dim)
    if obstacle and name == "flash-attn":
        pytest.skip(f"{name}: {obstacle}")  # the one optional kernel
    kernel = choose_attention(name, device=card, dtype=torch.bfloat16, head_dim=head_dim)
    lengths = [(300, 300), (1, 1), (77, 77)]
    shapes = [lengths, [(1, 300), (1, 77)], [(5, 64)]] if causal else [lengths]
    for shape in shapes:
        out, expected = run(
            kernel, shape, heads=heads, head_dim=head_dim, causal=causal, device=card, dtype=torch.bfloat16
        )
        torch.testing.assert_close(out.float(), expected, atol=KERNEL_TOLERANCE, rtol=KERNEL_TOLERANCE)


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "sdpa"])
def test_float32_takes_sdpa(card: torch.device, name: str) -> None:
    assert why_not(name, device=card, dtype=torch.float32, head_dim=64)
    assert choose_attention("auto", device=card, dtype=torch.float32, head_dim=64).name == "sdpa"


@contextmanager
def waiting_is_an_error(stage: str) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_synchronisation_a_batch(half: Reranker, exact: Reranker, dtype: str) -> None:
    """Nothing between the first upload and the final copy of the scores waits for the card."""
    reranker = half if dtype == "bfloat16" else exact
    case = next(case for case in CASES if case.name == "five_small-0.25")
    request = reranker.prepare(case.query, case.pages(), case.keep_ratio)
    [expected, _] = reranker.score([request, request])  # libraries are loaded, pinned memory is there
    [answer, _] = reranker.score([request, request], observe=waiting_is_an_error)
    assert answer.order == expected.order


def test_stages_are_timed_on_the_card(half: Reranker) -> None:
    case = next(case for case in CASES if case.name == "five_small-0.25")
    clock = half.stage_clock()
    half.score([half.prepare(case.query, case.pages(), case.keep_ratio)], observe=clock.observe)
    assert all(0 < seconds < 10 for seconds in clock.seconds().values())


def test_device_memory_is_reported(half: Reranker) -> None:
    assert set(half.device_memory()) == {"allocated", "reserved", "peak"}
    assert half.device_memory()["allocated"] > 0
