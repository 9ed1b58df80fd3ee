"""Attention over packed sequences of different lengths: one signature, three kernels, chosen once with the reason.

    attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale) -> (tokens_q, heads, head_dim)

q is (tokens_q, heads, head_dim); k and v are (tokens_k, key_value_heads, head_dim), grouped heads allowed; sequence i is
rows cu_seqlens[i] to cu_seqlens[i + 1]. Causal masks are aligned at the bottom right: the last query sees every key, also
where there are fewer queries than keys. Only this module imports flash-attn. It knows no model.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from model.device import upload
from model.errors import ConfigurationError

KERNELS = ("flash-attn", "torch-varlen", "sdpa")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKernel:
    """A kernel and where it reads its sequence boundaries: on the device, or (a Python loop) on the host."""

    name: str
    attend: Attend
    boundaries_on_host: bool
    reason: str  # for the log and /info

    def place(self, cu_seqlens: torch.Tensor, max_seqlen: int, device: torch.device) -> "Sequences":
        """Host boundaries, int32 (sequences + 1,), put where the kernel reads them, so that no call ever waits for them."""
        placed = cu_seqlens if self.boundaries_on_host else upload(cu_seqlens, device)
        return Sequences(cu_seqlens=placed, max_seqlen=max_seqlen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Where packed sequences end, placed for a kernel."""

    cu_seqlens: torch.Tensor  # int32 (sequences + 1,)
    max_seqlen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedAttention:
    """A kernel over given sequences: all that a layer needs, without knowing where its tokens' sequences end."""

    kernel: AttentionKernel
    queries: Sequences
    keys: Sequences
    causal: bool

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(tokens_q, heads, head_dim) in and out, scaled by the square root of head_dim."""
        return self.kernel.attend(
            q,
            k,
            v,
            self.queries.cu_seqlens,
            self.keys.cu_seqlens,
            self.queries.max_seqlen,
            self.keys.max_seqlen,
            causal=self.causal,
            scale=q.shape[-1] ** -0.5,
        )


def choose_attention(name: str, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionKernel:
    """The kernel called `name`, or for `auto` the first that can run.

    Raises: ConfigurationError for an unknown name and for a kernel that was asked for and cannot run: never a silent
    fallback.
    """
    if name == "auto":
        return _first_that_runs(device, dtype, head_dim)
    if name not in KERNELS:
        raise ConfigurationError(f"attention is {name!r}; it must be auto, {', '.join(KERNELS)}.")
    obstacle = why_not(name, device=device, dtype=dtype, head_dim=head_dim)
    if obstacle:
        raise ConfigurationError(f"attention is {name!r}, but {obstacle}. Choose auto or sdpa.")
    return _kernel(name, "as asked")


def _first_that_runs(device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionKernel:
    obstacles: list[str] = []
    for name in KERNELS:
        obstacle = why_not(name, device=device, dtype=dtype, head_dim=head_dim)
        if obstacle is None:
            return _kernel(name, "; ".join(obstacles) or "the fastest installed")
        obstacles.append(f"not {name}: {obstacle}")
    raise AssertionError("sdpa runs everywhere")


def why_not(name: str, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """What keeps the kernel from running here, or None."""
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


def _kernel(name: str, reason: str) -> AttentionKernel:
    build: dict[str, Callable[[], Attend]] = {
        "flash-attn": _flash_attention,
        "torch-varlen": _torch_varlen,
        "sdpa": lambda: _sdpa,
    }
    attend = build[name]()
    return AttentionKernel(name=name, attend=attend, boundaries_on_host=name == "sdpa", reason=reason)


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
    """One call a sequence. The boundaries are host tensors here, so reading them waits for nothing."""
    group = q.shape[1] // k.shape[1]
    if group > 1:  # grouped heads written out: the fused CPU kernel takes equal counts only
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    bounds_q, bounds_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    out = torch.empty_like(q)
    for start_q, end_q, start_k, end_k in zip(bounds_q, bounds_q[1:], bounds_k, bounds_k[1:], strict=False):
        queries, keys, values = (
            x.transpose(0, 1)[None] for x in (q[start_q:end_q], k[start_k:end_k], v[start_k:end_k])
        )
        attended = F.scaled_dot_product_attention(
            queries, keys, values, scale=scale, **_mask(end_q - start_q, end_k - start_k, causal, q.device)
        )
        out[start_q:end_q] = attended[0].transpose(0, 1)
    return out


def _mask(length_q: int, length_k: int, causal: bool, device: torch.device) -> dict[str, Any]:
    """SDPA's own `is_causal` is aligned at the top left: right for equal lengths only."""
    if not causal or length_q == 1:
        return {}
    if length_q == length_k:
        return {"is_causal": True}
    allowed = torch.ones(length_q, length_k, dtype=torch.bool, device=device).tril(diagonal=length_k - length_q)
    return {"attn_mask": allowed}
