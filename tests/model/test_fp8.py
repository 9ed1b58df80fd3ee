import pytest
import torch
from torch import nn

from model import Reranker, RerankerConfig
from model.fp8 import Fp8Linear, quantise_linears, quantise_rows
from tests.conformance import CASES, CHECKPOINT


def test_rows_are_scaled_to_the_whole_range() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [1e-3, 3e-3, 0.0], [0.0, 0.0, 0.0]])
    rounded, scale = quantise_rows(x)
    assert rounded.dtype == torch.float8_e4m3fn and scale.shape == (3, 1)
    assert rounded.float().abs().amax(dim=-1).tolist() == [448.0, 448.0, 0.0]
    torch.testing.assert_close(rounded.float() * scale, x, rtol=2**-4, atol=0)  # three bits of mantissa


def test_a_product_is_that_of_the_rounded_values() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32, bias=False)
    x = torch.randn(5, 64)
    out = Fp8Linear(linear)(x)
    (rounded_x, scale_x), (rounded_w, scale_w) = quantise_rows(x), quantise_rows(linear.weight)
    torch.testing.assert_close(out, (rounded_x.float() * scale_x) @ (rounded_w.float() * scale_w).T)
    assert (out - linear(x)).norm() / linear(x).norm() < 0.05


def test_every_linear_map_of_a_layer_is_replaced() -> None:
    layer = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU()))
    quantise_linears([layer], torch.device("cpu"))
    assert [type(module) for module in layer.modules() if not list(module.children())] == [
        Fp8Linear,
        Fp8Linear,
        nn.ReLU,
    ]


def test_the_decoder_alone_is_rounded_and_scores_move_a_little(reranker: Reranker) -> None:
    config = RerankerConfig(device="cpu", dtype="float32", keep_ratio=1.0, fp8=True)
    rounded = Reranker.from_checkpoint(str(CHECKPOINT), config)
    assert any(isinstance(module, Fp8Linear) for module in rounded.network.model.language_model.modules())
    assert not any(isinstance(module, Fp8Linear) for module in rounded.network.model.visual.modules())
    case = CASES[0]
    exact, moved = (run.rank(case.query, case.pages(), case.keep_ratio) for run in (reranker, rounded))
    assert exact.logits is not None and moved.logits is not None
    assert moved.logits != exact.logits
    assert moved.logits == pytest.approx(exact.logits, abs=0.5)
