"""Every kernel against attention written out, on sequences of different lengths."""

import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model import attention, attention_kernels
from model.attention import (
    AttentionKernel,
    AttentionWorkload,
    PackedAttention,
    choose_attention,
    make_kernel,
    make_page_plans,
    make_text_plans,
)
from model.attention_kernels import (
    KERNELS,
    attend_run,
    attend_run_in_plans,
    equal_runs,
    making_plans,
    unavailable_reason,
)
from model.device import Compute, choose_compute
from model.errors import ConfigurationError
from tests.written_out_attention import CPU, run

ON_CPU = choose_compute("cpu", "float32")
WORKLOAD = AttentionWorkload(heads=2, key_value_heads=1, head_dim=64, lengths=(8, 3), causal=True)


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
    assert unavailable_reason(name, ON_CPU, 64)
    with pytest.raises(ConfigurationError, match=name):
        choose_attention(name, WORKLOAD, ON_CPU)


def test_an_unknown_kernel_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="flash-attn, flash-attn-3, flash-attn-2, torch-varlen, sdpa"):
        choose_attention("xformers", WORKLOAD, ON_CPU)


@pytest.mark.parametrize("lengths", [(1, 9), (5, 5), (256, 256), (300, 300), (4, 20)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_buckets_and_plans_change_no_result(lengths: tuple[int, int], causal: bool) -> None:
    """What cuDNN gets on a card, computed here by SDPA's other kernels."""
    torch.manual_seed(0)
    q = torch.randn(2, lengths[0], 4, 16)
    k, v = torch.randn(2, 2, lengths[1], 2, 16)
    out = attend_run_in_plans(q, k, v, causal, 0.3)
    torch.testing.assert_close(out, attend_run(q, k, v, causal, 0.3), atol=1e-5, rtol=1e-5)


def test_runs_are_powers_of_two() -> None:
    bounds = [0, *accumulate([5] * 23 + [7])]
    runs = list(equal_runs(bounds, bounds))
    assert [(run.count, run.length_q) for run in runs] == [(16, 5), (4, 5), (2, 5), (1, 5), (1, 7)]
    assert [run.start_k for run in runs] == [0, 80, 100, 110, 115]


class Kernels:
    """Kernels with configured durations, on a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float | Exception]) -> None:
        self.calls: list[str] = []
        self._seconds = seconds
        monkeypatch.setattr(attention, "unavailable_reason", lambda name, compute, head_dim: None)
        monkeypatch.setattr(attention, "build", lambda name: self._kernel(name))
        monkeypatch.setattr(attention, "seconds_of", self._seconds_of)

    def _kernel(self, name: str) -> Callable[..., torch.Tensor]:
        def attend(q: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
            self.calls.append(name)
            if isinstance(failure := self._seconds[name], Exception):
                raise failure
            return q

        return attend

    def _seconds_of(self, work: Callable[[], object], device: torch.device) -> float:
        work()
        seconds = self._seconds[self.calls[-1]]
        assert not isinstance(seconds, Exception)
        return 10.0 if self.calls.count(self.calls[-1]) == 1 else seconds  # the first call loads a library


def test_auto_takes_the_kernel_that_is_fastest_when_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels(
        monkeypatch,
        {"flash-attn-3": RuntimeError("no kernel image"), "flash-attn-2": 0.002, "torch-varlen": 0.003, "sdpa": 0.004},
    )
    kernel = choose_attention("auto", WORKLOAD, ON_CPU)
    assert kernel.name == "flash-attn-2"
    assert "the fastest of flash-attn-2 2.00 ms, torch-varlen 3.00 ms, sdpa 4.00 ms" in kernel.reason
    assert "not flash-attn-3: it failed when tried (RuntimeError: no kernel image)" in kernel.reason
    able = ["flash-attn-2", "torch-varlen", "sdpa"]
    assert kernels.calls[:7] == ["flash-attn-3", *able, *able], "in turns, so that a slow moment meets all alike"


@pytest.mark.parametrize(
    "failure", [TypeError("unexpected keyword"), OSError("libcudart.so.12"), AssertionError(), NotImplementedError()]
)
def test_auto_leaves_out_whatever_cannot_be_called(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    Kernels(monkeypatch, {"flash-attn-3": failure, "flash-attn-2": failure, "torch-varlen": failure, "sdpa": 0.001})
    kernel = choose_attention("auto", WORKLOAD, ON_CPU)
    assert kernel.name == "sdpa"
    assert f"not torch-varlen: it failed when tried ({type(failure).__name__}" in kernel.reason


def test_a_kernel_that_was_asked_for_and_fails_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernels(monkeypatch, {"flash-attn-3": RuntimeError("no kernel image"), "flash-attn-2": 0.1, "sdpa": 0.1})
    with pytest.raises(ConfigurationError, match=r"'flash-attn-3', but it failed when tried .*no kernel image"):
        choose_attention("flash-attn-3", WORKLOAD, ON_CPU)
    family = choose_attention("flash-attn", WORKLOAD, ON_CPU)
    assert family.name == "flash-attn-2" and "not flash-attn-3: it failed" in family.reason


ON_A_CARD = Compute(device=torch.device("cuda", 0), dtype=torch.bfloat16, reason="a card that is not there")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages can be imported, as on a machine with a card of compute capability 9.0."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    for name in ("flash_attn", "flash_attn_interface"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "it is not installed"),
        ("cute = None", "the installed flash_attn has no flash_attn_varlen_func"),  # flash-attn 4 alone
        (
            "raise ImportError('undefined symbol: _ZN3c105ErrorE')",
            "it cannot be imported: ImportError: undefined symbol",
        ),
        ("raise OSError('libcudart.so.12: cannot open')", "it cannot be imported: OSError: libcudart.so.12"),
        ("import a_package_that_it_needs", "it cannot be imported: ModuleNotFoundError: No module named 'a_package"),
    ],
    ids=["missing", "flash-attn 4", "for another torch", "missing library", "missing package"],
)
def test_a_package_that_cannot_be_used_is_an_obstacle_with_its_reason(
    packages: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, reason: str
) -> None:
    if source is not None:
        (packages / "flash_attn.py").write_text(source)
    assert reason in str(unavailable_reason("flash-attn-2", ON_A_CARD, 64))
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)


def test_the_second_generation_is_a_candidate_beside_the_third(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flash_attn", "flash_attn_interface"):
        (packages / f"{name}.py").write_text("def flash_attn_varlen_func(*args, **kwargs): return args[0]")
    assert unavailable_reason("flash-attn-3", ON_A_CARD, 64) is None
    assert unavailable_reason("flash-attn-2", ON_A_CARD, 64) is None
    for name in ("flash_attn", "flash_attn_interface"):
        monkeypatch.delitem(sys.modules, name, raising=False)


class Plans:
    """Sizes and strides that SDPA is called with, which is how cuDNN finds its plans; the backends that may serve a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[Any, ...]] = set()
        self.cudnn_allowed: list[bool] = []
        monkeypatch.setattr(attention_kernels, "needs_plans", lambda q: True)
        monkeypatch.setattr(attention, "needs_plans", lambda q: True)
        monkeypatch.setattr(attention_kernels, "_plans", attention_kernels._Plans())
        attend = F.scaled_dot_product_attention

        def observed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
            self.seen.add(tuple((tuple(x.shape), x.stride()) for x in (q, k, v)))
            self.cudnn_allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
            return attend(q, k, v, **options)

        monkeypatch.setattr(F, "scaled_dot_product_attention", observed)


TEXT = AttentionWorkload(heads=4, key_value_heads=2, head_dim=8, lengths=(10,), causal=True)
PAGES = AttentionWorkload(heads=2, key_value_heads=2, head_dim=8, lengths=(40,), causal=False, is_fused=True)


def test_the_warm_up_makes_the_plan_of_every_length_that_can_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = Plans(monkeypatch)
    kernel = make_kernel("sdpa")
    assert make_text_plans(kernel, TEXT, ON_CPU, longest=1000) == 4
    planned = set(plans.seen)
    for lengths in [(2,), (100,), (255,), (256,), (257,), (512,), (999,), (300, 300), (256, 256, 256), (40, 40, 700)]:
        run(kernel, [(length, length) for length in lengths], heads=(4, 2), head_dim=8, causal=True)
    assert plans.seen == planned


def test_usual_pages_find_their_plans_and_others_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = Plans(monkeypatch)
    kernel = make_kernel("sdpa")
    assert make_page_plans(kernel, PAGES, ON_CPU, lengths=[40, 24]) == 2 * 5
    planned = set(plans.seen)
    assert all(plans.cudnn_allowed)
    plans.cudnn_allowed.clear()
    for lengths in [(40,), (24, 24), (40,) * 20, (24,) * 7 + (40,) * 3]:
        fused_run(kernel, lengths)
    assert plans.seen == planned and all(plans.cudnn_allowed)
    plans.cudnn_allowed.clear()
    fused_run(kernel, (33, 33))
    assert plans.cudnn_allowed == [False], "a size without a plan goes to a kernel that needs none"


def fused_run(kernel: AttentionKernel, lengths: tuple[int, ...]) -> None:
    """Pages as the vision tower's layers hand them over: values are a slice of one projection, the others are turned."""
    q, k, v = torch.randn(sum(lengths), 3, PAGES.heads, PAGES.head_dim).unbind(1)
    pages = kernel.place(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths), CPU)
    PackedAttention(kernel=kernel, queries=pages, keys=pages, causal=False)(q.contiguous(), k.contiguous(), v)


def test_plans_belong_to_the_thread_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Thread

    plans = Plans(monkeypatch)
    kernel = make_kernel("sdpa")
    with making_plans():
        fused_run(kernel, (40,))
    other = Thread(target=fused_run, args=(kernel, (40,)))
    other.start()
    other.join()
    assert plans.cudnn_allowed == [True, False]


@pytest.mark.parametrize("head_dim", [12, 16])
def test_kernels_with_padded_heads_keep_the_promise_of_a_compiled_graph(
    monkeypatch: pytest.MonkeyPatch, head_dim: int
) -> None:
    """The graph is promised dense outputs; opcheck compares their strides with those of the real ones."""

    def flash_attn_varlen_func(q: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        assert q.shape[-1] % 8 == 0
        return q * 2

    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    make_kernel("flash-attn-2")
    q, k = torch.randn(7, 4, head_dim), torch.randn(7, 4, head_dim)
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    torch.library.opcheck(
        torch.ops.ziprerank.attend.default, ("flash-attn-2", q, k, k, bounds, bounds, 4, 4, False, 0.25)
    )
    monkeypatch.delitem(attention_kernels._built, "flash-attn-2")


@pytest.mark.parametrize("causal", [False, True])
def test_a_compiled_graph_sees_one_opaque_node(causal: bool) -> None:
    q, k = torch.randn(7, 4, 16), torch.randn(7, 2, 16)
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    arguments = ("sdpa", q, k, k, bounds, bounds, 4, 4, causal, 0.25)
    torch.library.opcheck(torch.ops.ziprerank.attend.default, arguments)
