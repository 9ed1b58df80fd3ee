"""The kernels behind `attention`: FlashAttention, torch's variable-length attention, and SDPA, under one signature.

    attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale) -> (tokens_q, heads, head_dim)

q is (tokens_q, heads, head_dim); k and v are (tokens_k, key_value_heads, head_dim), grouped heads allowed; sequence i is
rows cu_seqlens[i] to cu_seqlens[i + 1]. Causal masks are aligned at the bottom right: the last query sees every key, also
where there are fewer queries than keys (never none). The output is contiguous. Only this module imports flash-attn. It knows
no model.
"""

import importlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.device import Compute

KERNELS = ("flash-attn-3", "flash-attn-2", "torch-varlen", "sdpa")
LENGTH_BUCKET = 256
MOST_AT_ONCE = 16
"""Sequences in one call of SDPA. Runs have 16, 8, 4, 2 or 1: kernels that plan by shape see few different counts."""

_FUNCTIONS = {
    "flash-attn-3": ("flash_attn_interface", "flash_attn_varlen_func"),
    "flash-attn-2": ("flash_attn", "flash_attn_varlen_func"),
    "torch-varlen": ("torch.nn.attention.varlen", "varlen_attn"),
}
"""Module and function of each kernel that has to be imported."""

_NOT_INSTALLED = {
    "flash-attn-3": "it is not installed (no wheel on PyPI; build it from the hopper folder of flash-attention)",
    "flash-attn-2": "it is not installed (pip install 'ziprerank[flash]')",
    "torch-varlen": f"torch {torch.__version__} has no torch.nn.attention.varlen",
}
_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Attend(Protocol):
    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        causal: bool,
        scale: float,
    ) -> torch.Tensor: ...


def unavailable_reason(name: str, compute: Compute, head_dim: int) -> str | None:
    """The reason why the kernel cannot run here, or None. Whether it runs on this very card, only a call shows."""
    device, dtype = compute.device, compute.dtype
    if name == "sdpa":
        return None
    if device.type != "cuda":
        return f"it needs CUDA and the device is {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    if head_dim > 256:
        return f"it takes heads of up to 256 and these are {head_dim}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs compute capability 8.0"
    found = _find_function(name)
    return found if isinstance(found, str) else None


def _find_function(name: str) -> Callable[..., Any] | str:
    """The kernel's function, or the reason why it cannot be imported.

    An extension that was built for another torch or lacks a library raises anything from ImportError to OSError.
    """
    module_name, function_name = _FUNCTIONS[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            return _NOT_INSTALLED[name]
        return f"it cannot be imported: {first_line(error)}"
    except Exception as error:  # noqa: BLE001 (a package of others must not end the start)
        return f"it cannot be imported: {first_line(error)}"
    function = getattr(module, function_name, None)
    if not callable(function):
        return f"the installed {module_name} has no {function_name}"
    result: Callable[..., Any] = function
    return result


def first_line(error: Exception) -> str:
    """An error's type and the first line of its text, for a reason in the log."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_built: dict[str, Attend] = {}


def build(name: str) -> Attend:
    """Make the kernel called `name`, which `unavailable_reason` has cleared, and remember it for `built`."""
    if name == "sdpa":
        _built[name] = _sdpa
        return _sdpa
    function = _find_function(name)
    if isinstance(function, str):
        raise RuntimeError(f"{name}: {function}")
    if name == "torch-varlen":
        # Since torch 2.13, and required there.
        takes_enable_gqa = "enable_gqa" in inspect.signature(function).parameters
        _built[name] = _with_padded_heads(partial(_call_torch_varlen, function, takes_enable_gqa))
    else:
        _built[name] = _with_padded_heads(partial(_call_flash_attention, function))
    return _built[name]


def built(name: str) -> Attend:
    """The kernel that `build` made last under that name. A compiled graph refers to kernels by name."""
    return _built[name] if name in _built else build(name)


def _call_flash_attention(
    function: Callable[..., Any],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    out = function(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=scale, causal=causal)
    result: torch.Tensor = out[0] if isinstance(out, tuple) else out  # some builds also return the log-sum-exp
    return result


def _call_torch_varlen(
    function: Callable[..., Any],
    takes_enable_gqa: bool,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    grouped = {"enable_gqa": q.shape[1] != k.shape[1]} if takes_enable_gqa else {}
    window = (-1, 0) if causal else (-1, -1)  # keys to the left and right of the diagonal, which ends bottom right
    out: torch.Tensor = function(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scale=scale, window_size=window, **grouped
    )
    return out


def _with_padded_heads(attend: Attend) -> Attend:
    """FlashAttention takes heads in multiples of 8: pad with zeros, which change no product, and cut them off."""

    def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        missing = -q.shape[-1] % 8
        if missing == 0:
            return attend(q, k, v, *args, **kwargs)
        q, k, v = (F.pad(x, (0, missing)) for x in (q, k, v))
        # Compiled graphs are promised dense outputs: a slice would have the strides of the padded heads.
        return attend(q, k, v, *args, **kwargs)[..., :-missing].contiguous()

    return padded


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """One call a run of equally long sequences. The boundaries are host tensors here: reading them waits for nothing."""
    out = q.new_empty(q.shape)
    # Causal sequences are padded on a card; one at a time, so that each padded length has one plan.
    most = 1 if causal and needs_plans(q) else MOST_AT_ONCE
    for run in equal_runs(cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), most=most):
        queries = _batched(q, run.start_q, run.count, run.length_q)  # (count, length_q, heads, head_dim)
        keys, values = (_batched(x, run.start_k, run.count, run.length_k) for x in (k, v))
        _batched(out, run.start_q, run.count, run.length_q).copy_(attend_run(queries, keys, values, causal, scale))
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Sequences of equal lengths, one after another."""

    start_q: int
    start_k: int
    length_q: int
    length_k: int
    count: int


def equal_runs(bounds_q: Sequence[int], bounds_k: Sequence[int], *, most: int = MOST_AT_ONCE) -> Iterator[Run]:
    """Runs of a power of two of sequences, at most `most` (itself a power of two)."""
    lengths = [
        (end_q - start_q, end_k - start_k)
        for (start_q, end_q), (start_k, end_k) in zip(pairwise(bounds_q), pairwise(bounds_k), strict=True)
    ]
    index = 0
    for (length_q, length_k), group in groupby(lengths):
        left = len(list(group))
        while left:
            count = min(most, 1 << (left.bit_length() - 1))
            yield Run(
                start_q=bounds_q[index], start_k=bounds_k[index], length_q=length_q, length_k=length_k, count=count
            )
            index, left = index + count, left - count


def _batched(x: torch.Tensor, start: int, count: int, length: int) -> torch.Tensor:
    """(count, length, heads, head_dim), a view."""
    return x[start : start + count * length].view(count, length, *x.shape[1:])


def needs_plans(q: torch.Tensor) -> bool:
    """Whether SDPA may run q by cuDNN, which makes a plan for every combination of sizes and strides."""
    return q.device.type == "cuda" and q.dtype != torch.float32


def attend_run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """q (sequences, length, heads, head_dim), k and v alike with their own heads and length; the result like q."""
    if needs_plans(q):
        return attend_run_in_plans(q, k, v, causal, scale)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (sequences, heads, length, head_dim)
    group = q.shape[1] // k.shape[1]
    if group > 1:  # grouped heads written out: the fused kernels for float32 take equal counts only
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    mask = _mask(q.shape[2], k.shape[2], causal, q.device)
    return F.scaled_dot_product_attention(q, k, v, scale=scale, **mask).transpose(1, 2)


def attend_run_in_plans(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """`attend_run` for cuDNN, which takes tens of milliseconds for a plan and finds plans by sizes and strides.

    Causal sequences are padded to a multiple of `LENGTH_BUCKET` tokens in their packed layout, so that padded and exact
    lengths have the same strides; nothing attends to the padding. Pages cannot be padded without a mask: those whose size has
    no plan in this thread go to a kernel that needs none. A single query needs no plan either.
    """
    length_q, length_k = q.shape[1], k.shape[1]
    backends: AbstractContextManager[None] = nullcontext()
    if length_q == 1:
        backends = sdpa_kernel(SDPBackend.MATH)
    elif causal and length_q == length_k:
        missing = -length_q % LENGTH_BUCKET
        # (sequences, length + missing, heads, head_dim)
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x for x in (q, k, v))
    elif not _plans.covers(q):
        backends = sdpa_kernel(_WITHOUT_PLANS)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (sequences, heads, length, head_dim)
    is_grouped = q.shape[1] != k.shape[1]
    mask = _mask(q.shape[2], k.shape[2], causal, q.device)
    with backends:
        out = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=is_grouped, **mask)
    return out.transpose(1, 2)[:, :length_q]  # (sequences, length_q, heads, head_dim)


class _Plans(threading.local):
    """Sizes of page batches that cuDNN has plans for. It keeps its plans by thread, and so does this."""

    def __init__(self) -> None:
        self.sizes: set[torch.Size] = set()
        self.is_open = False

    def covers(self, q: torch.Tensor) -> bool:
        if self.is_open:
            self.sizes.add(q.shape)
        return q.shape in self.sizes


_plans = _Plans()


@contextmanager
def making_plans() -> Iterator[None]:
    """Let cuDNN make a plan for every size that is attended to inside, in this thread."""
    _plans.is_open = True
    try:
        yield
    finally:
        _plans.is_open = False


def _mask(length_q: int, length_k: int, causal: bool, device: torch.device) -> dict[str, Any]:
    """SDPA's own `is_causal` is aligned at the top left: right for equal lengths only."""
    if not causal or length_q == 1:
        return {}
    if length_q == length_k:
        return {"is_causal": True}
    allowed = torch.ones(length_q, length_k, dtype=torch.bool, device=device).tril(diagonal=length_k - length_q)
    return {"attn_mask": allowed}
