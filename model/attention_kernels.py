"""The kernels behind `attention`: FlashAttention, torch's variable-length attention, and SDPA, under one signature.

    attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale) -> (tokens_q, heads, head_dim)

q is (tokens_q, heads, head_dim); k and v are (tokens_k, key_value_heads, head_dim), where key_value_heads divides heads.
Sequence i is rows cu_seqlens[i] to cu_seqlens[i + 1]. Causal masks are aligned at the bottom right: the last query sees every
key, even if a sequence has fewer queries than keys (it has at least one). The output is contiguous. Only this module imports
flash-attn.
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
"""Causal sequences are padded to a multiple of this many tokens for cuDNN, to need few plans."""

MAX_SEQUENCES_PER_CALL = 16
"""In one call of SDPA. Calls take 16, 8, 4, 2 or 1 sequences, so that kernels which plan by shape need few plans."""

_FUNCTIONS = {
    "flash-attn-3": ("flash_attn_interface", "flash_attn_varlen_func"),
    "flash-attn-2": ("flash_attn", "flash_attn_varlen_func"),
    "torch-varlen": ("torch.nn.attention.varlen", "varlen_attn"),
}
"""Module and function of each kernel that is imported."""

_NOT_INSTALLED = {
    "flash-attn-3": "it is not installed (no wheel on PyPI; build it from the hopper folder of flash-attention)",
    "flash-attn-2": "it is not installed (pip install 'ziprerank[flash]')",
    "torch-varlen": f"torch {torch.__version__} has no torch.nn.attention.varlen",
}
_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Attend(Protocol):
    """The signature of all kernels; see the module's docstring for the shapes."""

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
    """The reason why the kernel cannot run here, or None. A None is not final: the first call may still fail on this card."""
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
        return "it needs compute capability 8.0 or higher"
    found = _find_function(name)
    return found if isinstance(found, str) else None


def _find_function(name: str) -> Callable[..., Any] | str:
    """The kernel's function, or the reason why it cannot be imported."""
    module_name, function_name = _FUNCTIONS[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            return _NOT_INSTALLED[name]
        return f"it cannot be imported: {first_line(error)}"
    # An extension built for another torch, or without its libraries, may raise anything from ImportError to OSError.
    except Exception as error:  # noqa: BLE001 (a broken package must not stop the service)
        return f"it cannot be imported: {first_line(error)}"
    function = getattr(module, function_name, None)
    if not callable(function):
        return f"the installed {module_name} has no {function_name}"
    result: Callable[..., Any] = function
    return result


def first_line(error: Exception) -> str:
    """An error's type and the first line of its text, for logged reasons."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_built: dict[str, Attend] = {}


def build(name: str) -> Attend:
    """Make the kernel called `name` and store it for `built`.

    Raises: RuntimeError for a kernel that cannot be imported; call `unavailable_reason` first.
    """
    if name == "sdpa":
        _built[name] = _attend_by_sdpa
        return _attend_by_sdpa
    function = _find_function(name)
    if isinstance(function, str):
        raise RuntimeError(f"{name}: {function}")
    if name == "torch-varlen":
        # torch has this parameter since 2.13, and requires it for grouped heads.
        takes_enable_gqa = "enable_gqa" in inspect.signature(function).parameters
        _built[name] = _with_padded_heads(partial(_call_torch_varlen, function, takes_enable_gqa))
    else:
        _built[name] = _with_padded_heads(partial(_call_flash_attention, function))
    return _built[name]


def built(name: str) -> Attend:
    """The kernel that `build` made last under that name. Compiled graphs refer to kernels by name."""
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
    result: torch.Tensor = out[0] if isinstance(out, tuple) else out  # some builds return (out, log-sum-exp)
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
    window = (-1, 0) if causal else (-1, -1)  # keys left and right of the bottom-right diagonal; -1: all
    out: torch.Tensor = function(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scale=scale, window_size=window, **grouped
    )
    return out


def _with_padded_heads(attend: Attend) -> Attend:
    """Pad heads with zeros to a multiple of 8, which FlashAttention requires, and cut the padding off the result."""

    def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        missing = -q.shape[-1] % 8
        if missing == 0:
            return attend(q, k, v, *args, **kwargs)
        q, k, v = (F.pad(x, (0, missing)) for x in (q, k, v))  # (tokens, heads, head_dim + missing)
        # Compiled graphs expect a dense output; a slice alone would keep the strides of the padded heads.
        return attend(q, k, v, *args, **kwargs)[..., :-missing].contiguous()

    return padded


def _attend_by_sdpa(
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
    """One SDPA call for each run of equally long sequences. The boundaries must be host tensors, because they are read here."""
    out = q.new_empty(q.shape)  # (tokens_q, heads, head_dim)
    # On CUDA causal sequences are padded; one per call, so that each padded length needs a single plan.
    most = 1 if causal and needs_plans(q) else MAX_SEQUENCES_PER_CALL
    for run in equal_runs(cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), most=most):
        queries = _batched(q, run.start_q, run.count, run.length_q)  # (count, length_q, heads, head_dim)
        keys, values = (_batched(x, run.start_k, run.count, run.length_k) for x in (k, v))  # (count, length_k, …)
        _batched(out, run.start_q, run.count, run.length_q).copy_(attend_run(queries, keys, values, causal, scale))
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive sequences of equal lengths. Starts and lengths are in tokens."""

    start_q: int
    start_k: int
    length_q: int
    length_k: int
    count: int


def equal_runs(
    bounds_q: Sequence[int], bounds_k: Sequence[int], *, most: int = MAX_SEQUENCES_PER_CALL
) -> Iterator[Run]:
    """Split packed sequences into runs. The count of each run is a power of two up to `most`, itself a power of two."""
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
    """Rows of x (tokens, heads, head_dim) as a view (count, length, heads, head_dim)."""
    return x[start : start + count * length].view(count, length, *x.shape[1:])


def needs_plans(q: torch.Tensor) -> bool:
    """Whether SDPA may run q by cuDNN, which needs a plan for every combination of sizes and strides."""
    return q.device.type == "cuda" and q.dtype != torch.float32


def attend_run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """Attention of equally long sequences.

    q: (sequences, length_q, heads, head_dim), as is the result. k, v: (sequences, length_k, key_value_heads, head_dim).
    """
    if needs_plans(q):
        return attend_run_in_plans(q, k, v, causal, scale)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (sequences, heads, length, head_dim)
    group = q.shape[1] // k.shape[1]
    if group > 1:  # the fused kernels for float32 need equal head counts
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))  # (sequences, heads, length_k, head_dim)
    mask = _mask_arguments(q.shape[2], k.shape[2], causal, q.device)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale, **mask)  # (sequences, heads, length_q, head_dim)
    return out.transpose(1, 2)


def attend_run_in_plans(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """`attend_run` by cuDNN, which takes tens of milliseconds to make a plan and looks plans up by sizes and strides.

    Causal sequences are padded to a multiple of `LENGTH_BUCKET` tokens in their packed layout, so that padded and exact
    lengths have the same strides; the causal mask hides the padding. Pages cannot be padded without a mask, so a page size
    without a plan in this thread runs on a kernel that needs none, and so does a single query.
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
    mask = _mask_arguments(q.shape[2], k.shape[2], causal, q.device)
    with backends:
        # (sequences, heads, length, head_dim)
        out = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=is_grouped, **mask)
    return out.transpose(1, 2)[:, :length_q]  # (sequences, length_q, heads, head_dim)


class _Plans(threading.local):
    """Sizes of page batches for which cuDNN has a plan in this thread; cuDNN keeps its plans per thread."""

    def __init__(self) -> None:
        self.sizes: set[torch.Size] = set()
        self.is_open = False

    def covers(self, q: torch.Tensor) -> bool:
        """Whether q's size has a plan. Inside `making_plans` its size is added first."""
        if self.is_open:
            self.sizes.add(q.shape)
        return q.shape in self.sizes


_plans = _Plans()


@contextmanager
def making_plans() -> Iterator[None]:
    """Inside this context, cuDNN makes a plan for every new page size of this thread."""
    _plans.is_open = True
    try:
        yield
    finally:
        _plans.is_open = False


def _mask_arguments(length_q: int, length_k: int, causal: bool, device: torch.device) -> dict[str, Any]:
    """SDPA's arguments for the mask. Its own `is_causal` aligns at the top left, which is right for equal lengths only."""
    if not causal or length_q == 1:
        return {}
    if length_q == length_k:
        return {"is_causal": True}
    is_allowed = torch.ones(length_q, length_k, dtype=torch.bool, device=device).tril(diagonal=length_k - length_q)
    return {"attn_mask": is_allowed}  # (length_q, length_k)
