"""Attention over packed sequences of different lengths, and the choice of its kernel.

A layer receives a `PackedAttention`, which holds the kernel and the boundaries of queries and keys. The kernel is chosen once,
and the reason is recorded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import torch

from model.attention_kernels import (
    KERNELS,
    LENGTH_BUCKET,
    MAX_SEQUENCES_PER_CALL,
    Attend,
    build,
    built,
    first_line,
    making_plans,
    needs_plans,
    unavailable_reason,
)
from model.device import Compute, seconds_of, upload
from model.errors import ConfigurationError

FAMILIES = {"flash-attn": ("flash-attn-3", "flash-attn-2")}
"""Names for groups of kernels; a name selects the first kernel of its group that runs."""

_TIMED_CALLS = 5
_WARM_UP_CALLS = 2
_TRIAL_LENGTHS = (64, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKernel:
    """A kernel, and whether it reads the sequence boundaries on the host (in a Python loop) or on the device."""

    name: str
    attend: Attend
    boundaries_on_host: bool
    reason: str  # for the log and /info

    def place(self, cu_seqlens: torch.Tensor, max_seqlen: int, device: torch.device) -> "Sequences":
        """Put host boundaries, int32 (sequences + 1,), where the kernel reads them, so that no call waits for a copy."""
        placed = cu_seqlens if self.boundaries_on_host else upload(cu_seqlens, device)
        return Sequences(cu_seqlens=placed, max_seqlen=max_seqlen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Boundaries of packed sequences, placed for a kernel."""

    cu_seqlens: torch.Tensor  # int32 (sequences + 1,)
    max_seqlen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedAttention:
    """Attention by one kernel over given sequences, as layers call it."""

    kernel: AttentionKernel
    queries: Sequences
    keys: Sequences
    causal: bool

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Scaled dot-product attention, scale 1 / sqrt(head_dim).

        q: (tokens_q, heads, head_dim), as is the result. k, v: (tokens_k, key_value_heads, head_dim).
        """
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
    """The kernel as a single node of a compiled graph, so that torch.compile does not trace into it."""
    attend = built(kernel_name)
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
    return q.new_empty(q.shape)  # (tokens_q, heads, head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWorkload:
    """The attention of one layer of a tower, at typical lengths."""

    heads: int
    key_value_heads: int
    head_dim: int
    lengths: tuple[int, ...]  # of the packed sequences
    causal: bool
    is_fused: bool = False  # q, k and v come from one projection, so v has three times the stride


def choose_attention(name: str, workload: AttentionWorkload, compute: Compute) -> AttentionKernel:
    """The kernel called `name`, or for `auto` the fastest one for this workload on this device.

    A named kernel that cannot run is an error, never replaced silently.
    Raises: ConfigurationError for an unknown name, and for a named kernel that cannot run.
    """
    if name == "auto":
        return _fastest_kernel(workload, compute)
    if name not in KERNELS and name not in FAMILIES:
        raise ConfigurationError(f"attention is {name!r}; it must be auto, {', '.join((*FAMILIES, *KERNELS))}.")
    obstacles: dict[str, str] = {}
    for candidate in FAMILIES.get(name, (name,)):
        obstacle = unavailable_reason(candidate, compute, workload.head_dim) or _trial_failure(
            candidate, workload, compute
        )
        if obstacle is None:
            return make_kernel(candidate, "; ".join(["as asked", *_obstacle_texts(obstacles)]))
        obstacles[candidate] = obstacle
    same = len(set(obstacles.values())) == 1
    reason = (
        obstacles[candidate] if same else "; ".join(f"{kernel}: {obstacle}" for kernel, obstacle in obstacles.items())
    )
    raise ConfigurationError(f"attention is {name!r}, but {reason}. Choose auto or sdpa.")


def _trial_failure(name: str, workload: AttentionWorkload, compute: Compute) -> str | None:
    """Call the kernel once on a small input; the reason of its failure, or None. SDPA is part of torch and needs no trial."""
    if name == "sdpa":
        return None
    try:
        seconds_of(
            _call_on_random_values(make_kernel(name), replace(workload, lengths=_TRIAL_LENGTHS), compute),
            compute.device,
        )
    except Exception as error:  # noqa: BLE001 (a third-party package may raise anything)
        return f"it failed when tried ({first_line(error)})"
    return None


def _fastest_kernel(workload: AttentionWorkload, compute: Compute) -> AttentionKernel:
    """If several kernels can run here, time them in turns and take the fastest. A kernel whose call fails is left out."""
    obstacles: dict[str, str] = {}
    calls: dict[str, Callable[[], torch.Tensor]] = {}
    for name in KERNELS:
        if obstacle := unavailable_reason(name, compute, workload.head_dim):
            obstacles[name] = obstacle
        else:
            calls[name] = _call_on_random_values(make_kernel(name), workload, compute)
    if len(calls) == 1:
        [name] = calls
        return make_kernel(name, "; ".join(_obstacle_texts(obstacles)))
    seconds = _time_in_turns(calls, obstacles, compute)
    if not seconds:
        raise ConfigurationError(f"No attention kernel runs on this device: {'; '.join(_obstacle_texts(obstacles))}.")
    measured = ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in seconds.items())
    fastest = min(seconds, key=seconds.__getitem__)
    return make_kernel(fastest, "; ".join([f"the fastest of {measured}", *_obstacle_texts(obstacles)]))


def _time_in_turns(
    calls: dict[str, Callable[[], torch.Tensor]], obstacles: dict[str, str], compute: Compute
) -> dict[str, float]:
    """The best time of each call in seconds. Calls that fail are added to `obstacles` with the reason instead."""
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    with making_plans():
        for turn in range(_WARM_UP_CALLS + _TIMED_CALLS):
            for name in [name for name in calls if name not in obstacles]:
                try:
                    seconds = seconds_of(calls[name], compute.device)
                except Exception as error:  # noqa: BLE001 (one failing kernel must not stop the service)
                    obstacles[name] = f"it failed when tried ({first_line(error)})"
                else:
                    rounds[name] += [seconds] if turn >= _WARM_UP_CALLS else []
    return {name: min(seconds) for name, seconds in rounds.items() if name not in obstacles}


def _obstacle_texts(obstacles: dict[str, str]) -> list[str]:
    return [f"not {name}: {obstacle}" for name, obstacle in obstacles.items()]


def time_attention(kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute) -> float:
    """Seconds for one layer's attention: the best of a few calls after a warm-up. Raises: RuntimeError if a call fails."""
    obstacles: dict[str, str] = {}
    seconds = _time_in_turns({kernel.name: _call_on_random_values(kernel, workload, compute)}, obstacles, compute)
    if obstacles:
        raise RuntimeError(f"{kernel.name}: {obstacles[kernel.name]}")
    return seconds[kernel.name]


def make_text_plans(kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute, longest: int) -> int:
    """Make cuDNN's plans for prompts of up to `longest` tokens in this thread, if the kernel needs plans.

    Returns the number of plans made.
    """
    lengths = range(LENGTH_BUCKET, longest + LENGTH_BUCKET, LENGTH_BUCKET)
    return _make_plans(kernel, workload, compute, [(length,) for length in lengths])


def make_page_plans(
    kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute, lengths: Sequence[int]
) -> int:
    """Make cuDNN's plans for batches of pages with these `lengths` (patches) in this thread, if the kernel needs plans.

    Returns the number of plans made.
    """
    counts = [1 << power for power in range(MAX_SEQUENCES_PER_CALL.bit_length())]
    return _make_plans(kernel, workload, compute, [(length,) * count for length in lengths for count in counts])


def _make_plans(
    kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute, batches: Sequence[tuple[int, ...]]
) -> int:
    if kernel.name != "sdpa" or not needs_plans(torch.empty(0, dtype=compute.dtype, device=compute.device)):
        return 0
    with making_plans():
        for lengths in batches:
            _call_on_random_values(kernel, replace(workload, lengths=lengths), compute)()
    return len(batches)


def _call_on_random_values(
    kernel: AttentionKernel, workload: AttentionWorkload, compute: Compute
) -> Callable[[], torch.Tensor]:
    """A call of one layer's attention on random values with the memory layout of the tower's own."""
    tokens, device = sum(workload.lengths), compute.device
    q, k = (
        torch.randn(tokens, heads, workload.head_dim, device=device, dtype=compute.dtype)
        for heads in (workload.heads, workload.key_value_heads)
    )  # each (tokens, heads, head_dim)
    projections = 3 if workload.is_fused else 1
    v = torch.randn(
        tokens, projections, workload.key_value_heads, workload.head_dim, device=device, dtype=compute.dtype
    )[:, -1]  # (tokens, key_value_heads, head_dim), a slice
    boundaries = torch.tensor([0, *accumulate(workload.lengths)], dtype=torch.int32)
    sequences = kernel.place(boundaries, max(workload.lengths), device)
    return partial(PackedAttention(kernel=kernel, queries=sequences, keys=sequences, causal=workload.causal), q, k, v)


def make_kernel(name: str, reason: str = "") -> AttentionKernel:
    """The kernel called `name`, for which `unavailable_reason` returned None."""
    return AttentionKernel(name=name, attend=build(name), boundaries_on_host=name == "sdpa", reason=reason)
