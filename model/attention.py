"""Attention over packed sequences of different lengths: which kernel, chosen once with the reason, over which sequences.

What a layer is handed is a `PackedAttention`: a kernel and the boundaries of queries and keys, so that it need not know them.
Knows no model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import torch

from model.attention_kernels import KERNELS, LENGTH_BUCKET, Attend, implementation, why_not
from model.device import Compute, seconds_of, upload
from model.errors import ConfigurationError

_TIMED_CALLS = 5


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
        attend = partial(_attend_opaquely, self.kernel.name) if torch.compiler.is_compiling() else self.kernel.attend
        return attend(
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


@torch.library.custom_op("ziprerank::attend", mutates_args=())
def _attend_opaquely(
    kernel_name: str,
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
    """One node of a compiled graph, whatever the kernel does inside."""
    attend = implementation(kernel_name)
    return attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=causal, scale=scale)


@_attend_opaquely.register_fake
def _(
    kernel_name: str,
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
    return torch.empty_like(q)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWorkload:
    """What a tower typically asks of a kernel."""

    heads: int
    key_value_heads: int
    head_dim: int
    lengths: tuple[int, ...]  # of the packed sequences
    causal: bool


def choose_attention(name: str, workload: AttentionWorkload, compute: Compute) -> AttentionKernel:
    """The kernel called `name`, or for `auto` the one that does the workload fastest here.

    Raises: ConfigurationError for an unknown name and for a kernel that was asked for and cannot run: never a silent
    fallback.
    """
    if name == "auto":
        return _fastest(workload, compute)
    if name not in KERNELS:
        raise ConfigurationError(f"attention is {name!r}; it must be auto, {', '.join(KERNELS)}.")
    obstacle = why_not(name, compute, workload.head_dim)
    if obstacle:
        raise ConfigurationError(f"attention is {name!r}, but {obstacle}. Choose auto or sdpa.")
    return make_kernel(name, "as asked")


def _fastest(workload: AttentionWorkload, compute: Compute) -> AttentionKernel:
    """Tried on the workload where several could do it."""
    obstacles = {name: why_not(name, compute, workload.head_dim) for name in KERNELS}
    able = [make_kernel(name) for name, obstacle in obstacles.items() if obstacle is None]
    seconds: dict[str, float] = {}
    for kernel in able[: len(able) if len(able) > 1 else 0]:
        try:
            seconds[kernel.name] = time_attention(kernel, workload, compute)
        except RuntimeError as error:
            obstacles[kernel.name] = f"it failed when tried ({error})"
    reasons = [f"not {name}: {obstacle}" for name, obstacle in obstacles.items() if obstacle]
    if not seconds:
        return replace(able[-1], reason="; ".join(reasons))
    fastest = min(able, key=lambda kernel: seconds.get(kernel.name, math.inf))
    measured = ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in seconds.items())
    return replace(fastest, reason="; ".join([f"the fastest of {measured}", *reasons]))


def time_attention(kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute) -> float:
    """Seconds for one layer's attention, the best of a few calls: the first ones load libraries and make plans."""
    work = _prepare(kernel, workload, compute)
    return min(seconds_of(work, compute.device) for _ in range(_TIMED_CALLS))


def make_plans(kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute, longest: int) -> None:
    """Have the plans for causal sequences of up to `longest` tokens made by the kernel that needs some, in this thread."""
    if kernel.name == "sdpa" and compute.device.type == "cuda":
        for length in range(LENGTH_BUCKET, longest + LENGTH_BUCKET, LENGTH_BUCKET):
            _prepare(kernel, replace(workload, lengths=(length,)), compute)()


def _prepare(kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute) -> Callable[[], torch.Tensor]:
    """A call of one layer's attention on random values."""
    tokens, device = sum(workload.lengths), compute.device
    q = torch.randn(tokens, workload.heads, workload.head_dim, device=device, dtype=compute.dtype)
    k, v = torch.randn(2, tokens, workload.key_value_heads, workload.head_dim, device=device, dtype=compute.dtype)
    boundaries = torch.tensor([0, *accumulate(workload.lengths)], dtype=torch.int32)
    sequences = kernel.place(boundaries, max(workload.lengths), device)
    return partial(PackedAttention(kernel=kernel, queries=sequences, keys=sequences, causal=workload.causal), q, k, v)


def make_kernel(name: str, reason: str = "") -> AttentionKernel:
    """The kernel called `name`, whose obstacles `why_not` tells."""
    return AttentionKernel(name=name, attend=implementation(name), boundaries_on_host=name == "sdpa", reason=reason)
