"""The decoder over packed embeddings: prompts of different lengths end to end, causal within each, without padding.

The result is read at the last position of each prompt (in training at the positions of the answer), so the last layer
computes keys and values for all tokens, but everything else for the read positions alone. No tokens are generated, so there is
no key-value cache. Parameter names are the checkpoint's (`model.language_model.…`).
Source: Qwen3-VL (transformers `Qwen3VLTextModel`).
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.attention import AttentionKernel, PackedAttention
from model.compilation import RunLayer
from model.config import TextConfig
from model.dataflow import PackedSequences
from model.qwen3_vl.rope import mrope_cos_sin, rotate


class LanguageModel(nn.Module):
    """The embedding table, the decoder's layers and the last norm; the vocabulary head is `Network.lm_head`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        # From an empty table, for the reason given in the vision encoder: it avoids importing torch's compiler.
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, packed: PackedSequences, kernel: AttentionKernel, run_layer: RunLayer) -> torch.Tensor:
        """The normalised hidden states (R, D) at the read positions."""
        *layers, last_layer = self.layers
        hidden = packed.embeddings  # (S, D)
        cos, sin = mrope_cos_sin(
            packed.positions,
            head_dim=self.config.head_dim,
            theta=self.config.rope_theta,
            sections=self.config.mrope_section,
            dtype=hidden.dtype,
        )  # each (S, head_dim)
        prompts = kernel.place(packed.cu_seqlens, packed.max_seqlen, hidden.device)
        attend = PackedAttention(kernel=kernel, queries=prompts, keys=prompts, causal=True)
        for index, layer in enumerate(layers):
            hidden = run_layer(layer, hidden, cos, sin, attend)  # (S, D)
            if index < len(packed.deepstack):
                hidden = hidden.index_add(0, packed.visual_slots, packed.deepstack[index].to(hidden.dtype))
        read = kernel.place(packed.read_cu_seqlens, packed.max_read_len, hidden.device)
        attend = PackedAttention(kernel=kernel, queries=read, keys=prompts, causal=True)
        hidden = last_layer(hidden, cos, sin, attend, packed.read_slots)  # (R, D)
        out: torch.Tensor = self.norm(hidden)
        return out


class DecoderLayer(nn.Module):
    """Grouped-query attention and a SwiGLU MLP, each with a norm before it and a residual connection."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGluMlp(config)

    def forward(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: PackedAttention,
        slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden: (S, D). cos, sin: (S, head_dim). slots: int64 (R,), or None for all tokens.

        Returns the states (R, D) at `slots`, or all (S, D). `attend` must have the boundaries of those queries.
        """
        hidden = self._with_attention_added(hidden, cos, sin, attend, slots)
        out: torch.Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out

    def _with_attention_added(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: PackedAttention,
        slots: torch.Tensor | None,
    ) -> torch.Tensor:
        """The states at `slots`, or all, with attention added. A method, so that q, k and v are freed before the MLP runs."""
        normalised = self.input_layernorm(hidden)
        k, v = self.self_attn.keys_and_values(normalised, cos, sin)  # each (S, key_value_heads, head_dim)
        if slots is not None:
            hidden, normalised, cos, sin = (x[slots] for x in (hidden, normalised, cos, sin))
        q = self.self_attn.queries(normalised, cos, sin)  # (R, heads, head_dim), or all S
        return hidden + self.self_attn.output(attend(q, k, v))


class SelfAttention(nn.Module):
    """The projections of grouped-query attention; the caller runs the attention itself."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = RmsNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RmsNorm(config.head_dim, config.rms_norm_eps)

    def queries(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(tokens, heads, head_dim), normalised per head and rotated."""
        return rotate(self.q_norm(self._split_heads(self.q_proj(hidden))), cos, sin)

    def keys_and_values(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each (tokens, key_value_heads, head_dim); keys are normalised per head and rotated."""
        return rotate(self.k_norm(self._split_heads(self.k_proj(hidden))), cos, sin), self._split_heads(
            self.v_proj(hidden)
        )

    def output(self, attended: torch.Tensor) -> torch.Tensor:
        """Project (tokens, heads, head_dim) to (tokens, D)."""
        out: torch.Tensor = self.o_proj(attended.flatten(1))
        return out

    def _split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.view(len(projected), -1, self.head_dim)  # (tokens, heads, head_dim)


class SwiGluMlp(nn.Module):
    """down(silu(gate(x)) * up(x)), x (tokens, D)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate = self.gate_proj(hidden)  # (tokens, intermediate)
        if torch.is_grad_enabled():
            gated = F.silu(gate) * self.up_proj(hidden)
        else:  # in place: these are the largest activations of a forward pass
            gated = F.silu(gate, inplace=True).mul_(self.up_proj(hidden))
        out: torch.Tensor = self.down_proj(gated)
        return out


class RmsNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 and rounded once, which is more exact than also rounding before the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight.to(hidden.dtype), self.eps)
