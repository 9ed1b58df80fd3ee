"""8-bit weights of the decoder: the rounding, the products, the choice, and what the scores become."""

from typing import Any

import pytest
import torch
from torch import nn

from model import ConfigurationError, Reranker, RerankerConfig
from model.device import Compute
from model.quantisation import (
    Fp8Linear,
    Int8Linear,
    quantise_layers,
    quantise_obstacle,
    quantised,
    round_to_e4m3,
    round_to_int8,
)
from tests.conformance import CASES, CHECKPOINT

LINEARS: dict[str, Any] = {"fp8": Fp8Linear, "int8": Int8Linear}
ON_CPU = Compute(device=torch.device("cpu"), dtype=torch.float32, reason="for tests")


def on_card(dtype: torch.dtype = torch.bfloat16) -> Compute:
    return Compute(device=torch.device("cuda", 0), dtype=dtype, reason="for tests")


@pytest.fixture
def card_of_capability(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what torch says of the card that this machine has not."""

    def pretend(*capability: int) -> None:
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A card")

    return pretend


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal values in rows of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-4, 2, shape[0]).unsqueeze(1)
    return (torch.randn(shape, generator=generator) * sizes).to(dtype)


def test_rows_are_scaled_to_the_whole_range_of_e4m3() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [1e-3, 3e-3, 0.0], [0.0, 0.0, 0.0]])
    rounded, scale = round_to_e4m3(x)
    assert rounded.dtype == torch.float8_e4m3fn and scale.shape == (3, 1)
    assert rounded.float().abs().amax(dim=-1).tolist() == [448.0, 448.0, 0.0]
    torch.testing.assert_close(rounded.float() * scale, x, rtol=2**-4, atol=0)  # three bits of mantissa


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_to_e4m3_is_that_of_float32_values(dtype: torch.dtype) -> None:
    """By the plain formula, with a copy in float32."""
    x = rows(50, 96, dtype=dtype)
    wide = x.float()
    expected_scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 448
    rounded, scale = round_to_e4m3(x)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(rounded.float(), (wide / expected_scale).to(torch.float8_e4m3fn).float())


def test_int8_rows_are_off_by_half_a_step_at_most() -> None:
    x = torch.cat([rows(50, 96), torch.zeros(1, 96)])
    rounded, scale = round_to_int8(x)
    assert rounded.dtype == torch.int8 and scale.dtype == torch.float32 and scale.shape == (51, 1)
    assert torch.equal(
        scale.bfloat16().float(), scale
    )  # so that bfloat16 passes multiply by the scale that was divided by
    assert rounded[:-1].abs().amax(dim=-1).tolist() == [127] * 50 and not rounded[-1].any()
    assert ((rounded * scale - x).abs() <= scale * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_a_weight_is_rounded_alike_in_one_piece_and_in_blocks(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = rows(50, 96)
    whole = LINEARS[scheme](weight)
    monkeypatch.setattr("model.quantisation._VALUES_AT_ONCE", 700)  # 7 rows, and 1 at the end
    in_blocks = LINEARS[scheme](weight)
    assert torch.equal(in_blocks.weight.float(), whole.weight.float()) and torch.equal(in_blocks.scale, whole.scale)


def test_a_product_in_fp8_is_that_of_the_rounded_values() -> None:
    weight, x = torch.randn(32, 64), torch.randn(5, 64)
    out = Fp8Linear(weight)(x)
    (rounded_x, scale_x), (rounded_w, scale_w) = round_to_e4m3(x), round_to_e4m3(weight)
    torch.testing.assert_close(out, (rounded_x.float() * scale_x) @ (rounded_w.float() * scale_w).T)
    assert (out - x @ weight.T).norm() / (x @ weight.T).norm() < 0.05


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)]
)
def test_a_product_with_int8_weights_is_that_of_the_rounded_weights(dtype: torch.dtype, tolerance: float) -> None:
    """In every dtype of the activations, to its precision."""
    torch.manual_seed(0)
    weight, x = torch.randn(32, 64), torch.randn(5, 64).to(dtype)
    out = Int8Linear(weight)(x)
    rounded, scale = round_to_int8(weight)
    expected = x.float() @ (rounded * scale).T
    assert out.dtype == dtype
    assert (out.float() - expected).norm() / expected.norm() < tolerance
    assert (expected - x.float() @ weight.T).norm() / expected.norm() < 0.01


def test_int8_weights_do_not_overflow_float16() -> None:
    """The sum of unscaled products would: 4096 * 127 * 10 is above 65504."""
    out = Int8Linear(torch.full((2, 4096), 0.01))(torch.full((1, 4096), 10.0, dtype=torch.float16))
    torch.testing.assert_close(out.float(), torch.full((1, 2), 409.6), rtol=5e-3, atol=0)


def test_int8_weights_are_turned_back_in_one_temporary() -> None:
    """Of the weight's size in the dtype of the activations, beside the scales: what torch's allocator reports."""
    linear = Int8Linear(torch.randn(256, 512))
    with torch.profiler.profile(profile_memory=True) as profiler:
        weight = linear._weight_as(torch.float32)
    changes = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = max(sum(changes[: end + 1]) for end in range(len(changes)))
    assert weight.nbytes <= peak <= weight.nbytes + 2**12


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_a_quantised_map_compiles_in_one_piece_for_every_length(scheme: str) -> None:
    torch._dynamo.reset()
    linear = LINEARS[scheme](torch.randn(32, 64))
    compiled = torch.compile(linear, dynamic=True, fullgraph=True, backend="aot_eager")
    for length in (5, 9):
        x = torch.randn(length, 64)
        assert torch.equal(compiled(x), linear(x))


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_every_linear_map_of_a_layer_is_replaced_once(scheme: str) -> None:
    layer = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU()))
    quantise_layers([layer], "none")
    assert isinstance(layer[0], nn.Linear)
    quantise_layers([layer], scheme)
    leaves = [module for module in layer.modules() if not list(module.children())]
    assert [type(module) for module in leaves] == [LINEARS[scheme], LINEARS[scheme], nn.ReLU]
    quantise_layers([layer], scheme)
    assert [module for module in layer.modules() if not list(module.children())] == leaves


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_a_linear_map_with_a_bias_is_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match="bias=True\\) has a bias"):
        quantised(nn.Linear(4, 4), torch.zeros(4, 4), scheme)


def test_fp8_needs_an_ada_or_a_hopper_card(card_of_capability: Any) -> None:
    card_of_capability(8, 6)
    problem = quantise_obstacle("fp8", on_card())
    assert problem is not None
    assert "compute capability 8.6" in problem and "8.9 (Ada, Hopper or newer). Choose int8." in problem
    assert quantise_obstacle("int8", on_card(torch.float16)) is None
    for capability in ((8, 9), (9, 0), (12, 0)):
        card_of_capability(*capability)
        assert quantise_obstacle("fp8", on_card()) is None
    assert "dtype is float16" in str(quantise_obstacle("fp8", on_card(torch.float16)))
    assert quantise_obstacle("fp8", ON_CPU) is None


def test_an_unknown_scheme_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigurationError, match="quantise is 'int4'; it must be one of none, fp8, int8, auto"):
        RerankerConfig(quantise="int4")


@pytest.mark.parametrize(("scheme", "tolerance"), [("fp8", 0.5), ("int8", 0.1)])
def test_the_decoder_alone_is_rounded_and_scores_move_a_little(
    scheme: str, tolerance: float, reranker: Reranker
) -> None:
    config = RerankerConfig(device="cpu", dtype="float32", keep_ratio=1.0, quantise=scheme)
    rounded = Reranker.from_checkpoint(str(CHECKPOINT), config)
    assert (rounded.quantise, rounded.quantise_reason) == (scheme, "as asked")
    assert any(isinstance(module, LINEARS[scheme]) for module in rounded.network.model.language_model.modules())
    assert not any(isinstance(module, nn.Linear) for module in rounded.network.model.language_model.modules())
    assert not any(isinstance(module, (Fp8Linear, Int8Linear)) for module in rounded.network.model.visual.modules())
    case = CASES[0]
    exact, moved = (run.rank(case.query, case.pages(), case.keep_ratio) for run in (reranker, rounded))
    assert exact.logits is not None and moved.logits is not None
    assert moved.logits != exact.logits
    assert moved.logits == pytest.approx(exact.logits, abs=tolerance)
