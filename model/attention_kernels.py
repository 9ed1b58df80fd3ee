"""The kernels behind `attention`: FlashAttention, torch's variable-length attention, and SDPA, under one signature.

    attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale) -> (tokens_q, heads, head_dim)

q is (tokens_q, heads, head_dim); k and v are (tokens_k, key_value_heads, head_dim), grouped heads allowed; sequence i is
rows cu_seqlens[i] to cu_seqlens[i + 1]. Causal masks are aligned at the bottom right: the last query sees every key, also
where there are fewer queries than keys (never none). Only this module imports flash-attn. It knows no model.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.device import Compute

KERNELS = ("flash-attn", "torch-varlen", "sdpa")
LENGTH_BUCKET = 256
_LARGEST_RUN = 16


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


def why_not(name: str, compute: Compute, head_dim: int) -> str | None:
    """What keeps the kernel from running here, or None."""
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
    if name == "flash-attn" and not _flash_attention_module():
        return "flash-attn is not installed (pip install 'ziprerank[flash]')"
    if name == "torch-varlen" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen"
    return None


def _flash_attention_module() -> str | None:
    """The third generation's module where it is installed, else the second's."""
    for module in ("flash_attn_interface", "flash_attn"):
        if importlib.util.find_spec(module):
            return module
    return None


@lru_cache
def implementation(name: str) -> Attend:
    """The kernel called `name`, whose obstacles `why_not` tells."""
    build: dict[str, Callable[[], Attend]] = {
        "flash-attn": _flash_attention,
        "torch-varlen": _torch_varlen,
        "sdpa": lambda: _sdpa,
    }
    return build[name]()


def _flash_attention() -> Attend:
    module = importlib.import_module(_flash_attention_module() or "flash_attn")
    return _with_padded_heads(partial(_call_flash_attention, module.flash_attn_varlen_func))


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


def _torch_varlen() -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    takes_enable_gqa = "enable_gqa" in inspect.signature(varlen_attn).parameters  # since torch 2.13, and required there
    return _with_padded_heads(partial(_call_torch_varlen, varlen_attn, takes_enable_gqa))


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
        out = attend(q, k, v, *args, **kwargs)
        return out[..., :-missing]

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
    out = torch.empty_like(q)
    for run in equal_runs(cu_seqlens_q.tolist(), cu_seqlens_k.tolist()):
        queries = _batched(q, run.start_q, run.count, run.length_q)
        keys, values = (_batched(x, run.start_k, run.count, run.length_k) for x in (k, v))
        end_q = run.start_q + run.count * run.length_q
        out[run.start_q : end_q] = attend_run(queries, keys, values, causal, scale).transpose(1, 2).flatten(0, 1)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Sequences of equal lengths, one after another."""

    start_q: int
    start_k: int
    length_q: int
    length_k: int
    count: int


def equal_runs(bounds_q: Sequence[int], bounds_k: Sequence[int]) -> Iterator[Run]:
    """Runs of 16, 8, 4, 2 and 1 sequences: kernels that plan by shape see few different counts."""
    lengths = [
        (end_q - start_q, end_k - start_k)
        for (start_q, end_q), (start_k, end_k) in zip(pairwise(bounds_q), pairwise(bounds_k), strict=True)
    ]
    index = 0
    for (length_q, length_k), group in groupby(lengths):
        left = len(list(group))
        while left:
            count = min(_LARGEST_RUN, 1 << (left.bit_length() - 1))
            yield Run(
                start_q=bounds_q[index], start_k=bounds_k[index], length_q=length_q, length_k=length_k, count=count
            )
            index, left = index + count, left - count


def _batched(x: torch.Tensor, start: int, count: int, length: int) -> torch.Tensor:
    """(count, heads, length, head_dim), a view."""
    return x[start : start + count * length].view(count, length, *x.shape[1:]).transpose(1, 2)


def attend_run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """q (sequences, heads, length, head_dim), k and v alike with their own heads and length."""
    if q.device.type == "cuda" and q.dtype != torch.float32:
        return attend_run_in_plans(q, k, v, causal, scale)
    group = q.shape[1] // k.shape[1]
    if group > 1:  # grouped heads written out: the fused kernels for float32 take equal counts only
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    mask = _mask(q.shape[2], k.shape[2], causal, q.device)
    return F.scaled_dot_product_attention(q, k, v, scale=scale, **mask)


def attend_run_in_plans(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """For cuDNN, which makes a plan for every new length (tens of milliseconds): causal sequences are padded to full buckets,
    whose tails nobody sees, and a single query goes without a plan."""
    length_q, length_k = q.shape[2], k.shape[2]
    is_grouped = q.shape[1] != k.shape[1]
    if length_q == 1:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=is_grouped)
    if causal and length_q == length_k:
        missing = -length_q % LENGTH_BUCKET
        q, k, v = (F.pad(x, (0, 0, 0, missing)) for x in (q, k, v))
    mask = _mask(q.shape[2], k.shape[2], causal, q.device)
    return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=is_grouped, **mask)[:, :, :length_q]


def _mask(length_q: int, length_k: int, causal: bool, device: torch.device) -> dict[str, Any]:
    """SDPA's own `is_causal` is aligned at the top left: right for equal lengths only."""
    if not causal or length_q == 1:
        return {}
    if length_q == length_k:
        return {"is_causal": True}
    allowed = torch.ones(length_q, length_k, dtype=torch.bool, device=device).tril(diagonal=length_k - length_q)
    return {"attn_mask": allowed}
