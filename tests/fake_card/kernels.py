"""Stand-ins for attention kernels and for RMSNorm on a fake card, under the signatures of the real ones.

Each checks its inputs as the real one does and returns a result of its shape and strides; what it also allocates while it runs
(the log-sum-exp, say) is allocated and dropped, so that the card counts it.
"""

from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

if TYPE_CHECKING:
    from tests.fake_card.card import FakeCard

LARGEST_HEAD = 256


def kernel_modules(card: "FakeCard", varlen: str | None, flash_attention: int | None) -> dict[str, ModuleType | None]:
    """Modules by the names under which the product imports them; None for one that is not installed."""
    functions = {"2.11": _varlen_of_torch_2_11, "2.13": _varlen_of_torch_2_13}
    varlen_attn = None if varlen is None else functions[varlen](card)
    return {
        "torch.nn.attention.varlen": _module("torch.nn.attention.varlen", varlen_attn=varlen_attn),
        "flash_attn": _module(
            "flash_attn", flash_attn_varlen_func=_flash_attn_2(card) if flash_attention == 2 else None
        ),
        "flash_attn_interface": _module(
            "flash_attn_interface", flash_attn_varlen_func=_flash_attn_3(card) if flash_attention == 3 else None
        ),
    }


def _module(name: str, **functions: Callable[..., Any] | None) -> ModuleType | None:
    if None in functions.values():
        return None
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(functions)
    return module


def _varlen_of_torch_2_11(card: "FakeCard") -> Callable[..., Any]:
    def varlen_attn(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        return_aux: Any = None,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Any:
        out, lse = _attend(card, "varlen_attn", query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)
        return (out, lse) if return_aux is not None and return_aux.lse else out

    return varlen_attn


def _varlen_of_torch_2_13(card: "FakeCard") -> Callable[..., Any]:
    def varlen_attn(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor | None,
        max_q: int,
        max_k: int,
        *,
        return_aux: Any = None,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        seqused_k: torch.Tensor | None = None,
        block_table: torch.Tensor | None = None,
        num_splits: int | None = None,
    ) -> Any:
        if not enable_gqa and query.size(1) != key.size(1):
            raise ValueError(
                "Expect query and key/value to have the same number of heads. Try setting enable_gqa=True."
            )
        out, lse = _attend(card, "varlen_attn", query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)
        return (out, lse) if return_aux is not None and return_aux.lse else out

    return varlen_attn


def _flash_attn_2(card: "FakeCard") -> Callable[..., Any]:
    def flash_attn_varlen_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: torch.Tensor | None = None,
    ) -> Any:
        out, lse = _attend(card, "flash_attn_2", q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return (out, lse, None) if return_attn_probs else out

    return flash_attn_varlen_func


def _flash_attn_3(card: "FakeCard") -> Callable[..., Any]:
    def flash_attn_varlen_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        seqused_q: torch.Tensor | None = None,
        seqused_k: torch.Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        qv: torch.Tensor | None = None,
        q_descale: torch.Tensor | None = None,
        k_descale: torch.Tensor | None = None,
        v_descale: torch.Tensor | None = None,
        window_size: tuple[int, int] = (-1, -1),
        attention_chunk: int = 0,
        softcap: float = 0.0,
        num_splits: int = 1,
        pack_gqa: bool | None = None,
        deterministic: bool = False,
        sm_margin: int = 0,
    ) -> Any:
        """The versions of this signature return the log-sum-exp too."""
        return _attend(card, "flash_attn_3", q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)

    return flash_attn_varlen_func


def _attend(
    card: "FakeCard",
    name: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q (tokens_q, heads, head_dim), k and v alike -> output like q and log-sum-exp float32 (heads, tokens_q)."""
    card.kernel_calls[name] += 1
    _check_heads(card, name, q, k, v)
    _check_for_flash_attention(card, name, q)
    for boundaries in (cu_seqlens_q, cu_seqlens_k):
        if not isinstance(boundaries, FakeTensor):
            card.fault("The sequence boundaries are not on the device.", name)
        elif boundaries.dtype != torch.int32 or boundaries.dim() != 1 or not boundaries.is_contiguous():
            card.fault("The sequence boundaries are not a contiguous row of int32.", name)
    if cu_seqlens_k is not None and cu_seqlens_q.shape != cu_seqlens_k.shape:
        card.fault("Queries and keys are of different numbers of sequences.", name)
    if not (0 < max_seqlen_q <= len(q) and 0 < max_seqlen_k <= len(k)):
        card.fault(f"Longest sequences of {max_seqlen_q} and {max_seqlen_k} of {len(q)} and {len(k)} tokens.", name)
    return torch.empty_like(q), torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)


def _check_heads(card: "FakeCard", name: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """What all kernels ask of queries, keys and values. Heads are the second dimension."""
    for tensor in (q, k, v):
        if not isinstance(tensor, FakeTensor):
            card.fault("Queries, keys or values are not on the device.", name)
        if tensor.dtype != card.tower_dtype:
            card.fault(f"Queries, keys or values are {tensor.dtype} in a tower of {card.tower_dtype}.", name)
        if tensor.stride(-1) != 1:
            card.fault("The last dimension of queries, keys or values is not contiguous.", name)
    if k.shape != v.shape or q.shape[-1] != k.shape[-1]:
        card.fault(f"Queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit.", name)
    if q.shape[1] % k.shape[1]:
        card.fault(f"{q.shape[1]} heads cannot share {k.shape[1]} of keys and values.", name)


def _check_for_flash_attention(card: "FakeCard", name: str, q: torch.Tensor) -> None:
    if q.dtype not in (torch.bfloat16, torch.float16):
        card.fault(f"Queries, keys and values are {q.dtype}, not bfloat16 or float16.", name)
    if q.shape[-1] % 8 or q.shape[-1] > LARGEST_HEAD:
        card.fault(f"Heads of {q.shape[-1]}, which is no multiple of 8 up to {LARGEST_HEAD}.", name)


def scaled_dot_product_attention(card: "FakeCard") -> Callable[..., Any]:
    """`F.scaled_dot_product_attention`: a fused kernel where one is allowed, else the unfused arithmetic."""
    real = F.scaled_dot_product_attention

    def stand_in(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if not isinstance(query, FakeTensor):
            return real(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        return _sdpa(card, query, key, value, attn_mask, is_causal, scale, enable_gqa)

    return stand_in


def _sdpa(
    card: "FakeCard",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """query (sequences, heads, length, head_dim), key and value alike -> like query."""
    name = "sdpa"
    _check_heads(card, name, query, key, value)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        card.fault(f"{query.shape[1]} and {key.shape[1]} heads without enable_gqa.", name)
    if _cur_sdpa_kernel_backends() == [SDPBackend.MATH]:
        card.kernel_calls["sdpa unfused"] += 1
        with card.any_product():
            out: torch.Tensor = torch.ops.aten._scaled_dot_product_attention_math.default(
                query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        return out
    card.kernel_calls[name] += 1
    if mask is not None and not isinstance(mask, FakeTensor):
        card.fault("The mask is not on the device.", name)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.empty(mask.shape, dtype=query.dtype, device=query.device)  # the kernels add it
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    out = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)  # FlashAttention works on (length, heads)
    del lse, mask
    return out


def rms_norm(card: "FakeCard") -> Callable[..., Any]:
    """`F.rms_norm`: one kernel on a card, several operations where a torch built without CUDA takes it apart."""
    real = F.rms_norm

    def stand_in(
        input: torch.Tensor,
        normalized_shape: Sequence[int],
        weight: torch.Tensor | None = None,
        eps: float | None = None,
    ) -> torch.Tensor:
        if not isinstance(input, FakeTensor):
            return real(input, list(normalized_shape), weight, eps)
        if weight is not None and (not isinstance(weight, FakeTensor) or weight.dtype != input.dtype):
            card.fault("The weight is on another device or of another dtype than the rows.", "rms_norm")
        rows = input.shape[: input.dim() - len(normalized_shape)]
        rstd = torch.empty((*rows, 1), dtype=torch.float32, device=input.device)
        out = torch.empty_like(input.contiguous())
        del rstd
        return out

    return stand_in
