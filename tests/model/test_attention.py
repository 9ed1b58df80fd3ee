"""Every kernel against attention written out, on sequences of different lengths."""

import math
import time
from itertools import accumulate

import pytest
import torch

from model import attention, attention_kernels
from model.attention import AttentionKernel, AttentionWorkload, PackedAttention, choose_attention, make_kernel
from model.attention_kernels import KERNELS, attend_run, attend_run_in_plans, equal_runs, why_not
from model.device import choose_compute
from model.errors import ConfigurationError

CPU = torch.device("cpu")
ON_CPU = choose_compute("cpu", "float32")
WORKLOAD = AttentionWorkload(heads=2, key_value_heads=1, head_dim=64, lengths=(8, 3), causal=True)


def attention_written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[tuple[int, int]], *, causal: bool, scale: float
) -> torch.Tensor:
    """The definition, in float32: softmax of scaled products, the last query seeing every key."""
    group = q.shape[1] // k.shape[1]
    out, start_q, start_k = [], 0, 0
    for length_q, length_k in lengths:
        queries = q[start_q : start_q + length_q].float()
        keys = k[start_k : start_k + length_k].float().repeat_interleave(group, dim=1)
        values = v[start_k : start_k + length_k].float().repeat_interleave(group, dim=1)
        products = torch.einsum("qhd,khd->hqk", queries, keys) * scale
        if causal:
            row, column = torch.arange(length_q)[:, None], torch.arange(length_k)[None]
            products.masked_fill_((column > row + length_k - length_q).to(q.device), -math.inf)
        out.append(torch.einsum("hqk,khd->qhd", products.softmax(-1), values))
        start_q, start_k = start_q + length_q, start_k + length_k
    return torch.cat(out)


def run(
    kernel: AttentionKernel, lengths: list[tuple[int, int]], *, heads: tuple[int, int], head_dim: int, causal: bool,
    device: torch.device = CPU, dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The kernel's result and the expected one."""
    torch.manual_seed(1)
    tokens_q, tokens_k = (sum(length[side] for length in lengths) for side in (0, 1))
    q = torch.randn(tokens_q, heads[0], head_dim).to(device, dtype)
    k, v = (torch.randn(tokens_k, heads[1], head_dim).to(device, dtype) for _ in range(2))
    queries, keys = (
        kernel.place(
            torch.tensor([0, *[length[side] for length in lengths]]).cumsum(0).int(),
            max(length[side] for length in lengths),
            device,
        )
        for side in (0, 1)
    )
    attend = PackedAttention(kernel=kernel, queries=queries, keys=keys, causal=causal)
    return attend(q, k, v), attention_written_out(q, k, v, lengths, causal=causal, scale=head_dim**-0.5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "lengths",
    [[(5, 5)], [(3, 3), (1, 1), (17, 17)], [(5, 5)] * 7 + [(3, 3)] * 2, [(1, 4), (1, 9)], [(2, 7), (6, 6)]],
    ids=str,
)
@pytest.mark.parametrize(("heads", "head_dim"), [((4, 4), 18), ((8, 2), 32)])
def test_sdpa_computes_attention(
    lengths: list[tuple[int, int]], heads: tuple[int, int], head_dim: int, causal: bool
) -> None:
    kernel = make_kernel("sdpa")
    out, expected = run(kernel, lengths, heads=heads, head_dim=head_dim, causal=causal)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_a_sequence_does_not_see_its_neighbours() -> None:
    kernel = make_kernel("sdpa")
    x = torch.randn(7, 2, 8)
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    before = kernel.attend(x, x, x, bounds, bounds, 4, 4, causal=False, scale=1.0)
    changed = x.clone()
    changed[3:] += 1
    after = kernel.attend(changed, changed, changed, bounds, bounds, 4, 4, causal=False, scale=1.0)
    torch.testing.assert_close(before[:3], after[:3], atol=0, rtol=0)


def test_auto_takes_sdpa_on_a_cpu_and_says_why() -> None:
    kernel = choose_attention("auto", WORKLOAD, ON_CPU)
    assert kernel.name == "sdpa"
    assert "flash-attn" in kernel.reason and "CUDA" in kernel.reason


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "sdpa"])
def test_a_kernel_that_was_asked_for_and_cannot_run_is_an_error(name: str) -> None:
    assert why_not(name, ON_CPU, 64)
    with pytest.raises(ConfigurationError, match=name):
        choose_attention(name, WORKLOAD, ON_CPU)


def test_an_unknown_kernel_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="flash-attn, torch-varlen, sdpa"):
        choose_attention("xformers", WORKLOAD, ON_CPU)


@pytest.mark.parametrize("lengths", [(1, 9), (5, 5), (256, 256), (300, 300), (4, 20)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_buckets_and_plans_change_no_result(lengths: tuple[int, int], causal: bool) -> None:
    """What cuDNN gets on a card, computed here by SDPA's other kernels."""
    torch.manual_seed(0)
    q = torch.randn(2, 4, lengths[0], 16)
    k, v = torch.randn(2, 2, 2, lengths[1], 16)
    out = attend_run_in_plans(q, k, v, causal, 0.3)
    torch.testing.assert_close(out, attend_run(q, k, v, causal, 0.3), atol=1e-5, rtol=1e-5)


def test_runs_are_powers_of_two() -> None:
    bounds = [0, *accumulate([5] * 23 + [7])]
    runs = list(equal_runs(bounds, bounds))
    assert [(run.count, run.length_q) for run in runs] == [(16, 5), (4, 5), (2, 5), (1, 5), (1, 7)]
    assert [run.start_k for run in runs] == [0, 80, 100, 110, 115]


def test_auto_takes_what_is_fastest_when_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(q: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        time.sleep(0.02)
        return q

    def broken(*args: object, **kwargs: object) -> torch.Tensor:
        raise RuntimeError("no plan")

    kernels = {"flash-attn": broken, "torch-varlen": slow, "sdpa": attention_kernels.implementation("sdpa")}
    monkeypatch.setattr(attention, "why_not", lambda name, compute, head_dim: None)
    monkeypatch.setattr(attention, "implementation", kernels.__getitem__)
    kernel = choose_attention("auto", WORKLOAD, ON_CPU)
    assert kernel.name == "sdpa"
    assert "the fastest of torch-varlen 2" in kernel.reason and "not flash-attn: it failed when tried" in kernel.reason


@pytest.mark.parametrize("causal", [False, True])
def test_a_compiled_graph_sees_one_opaque_node(causal: bool) -> None:
    q, k = torch.randn(7, 4, 16), torch.randn(7, 2, 16)
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    arguments = ("sdpa", q, k, k, bounds, bounds, 4, 4, causal, 0.25)
    torch.library.opcheck(torch.ops.ziprerank.attend.default, arguments)
