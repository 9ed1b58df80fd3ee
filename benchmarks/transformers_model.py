"""transformers' own Qwen3-VL on the weights of one of our networks: one copy in memory, two ways through it."""

import torch
from torch import nn
from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from model.config import ModelConfig, TextConfig, VisionConfig
from model.device import Compute
from model.qwen3_vl.network import Network


def share_weights(network: Network, config: ModelConfig, compute: Compute) -> Qwen3VLForConditionalGeneration:
    """transformers' model whose parameters are `network`'s own tensors."""
    with torch.device("meta"):
        model: Qwen3VLForConditionalGeneration = Qwen3VLForConditionalGeneration(to_transformers(config))
    model.load_state_dict(network.state_dict(), assign=True)
    _make_angle_tables(model, compute.device)
    model.eval().requires_grad_(False)
    return model


def _make_angle_tables(model: nn.Module, device: torch.device) -> None:
    """Rotary frequencies belong to no checkpoint: modules that hold such tables are made anew, off the meta device."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if any(buffer.is_meta for buffer in child.buffers(recurse=False)):
                setattr(parent, name, type(child)(child.config).to(device))


def to_transformers(config: ModelConfig) -> Qwen3VLConfig:
    """Our sizes in transformers' configuration."""
    return Qwen3VLConfig(
        text_config=_text_section(config.text),
        vision_config=_vision_section(config.vision),
        image_token_id=config.image_token_id,
        vision_start_token_id=config.vision_start_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )


def _text_section(text: TextConfig) -> dict[str, object]:
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": text.rope_theta,
            "mrope_section": list(text.mrope_section),
            "mrope_interleaved": True,
        },
    }


def _vision_section(vision: VisionConfig) -> dict[str, object]:
    return {
        "depth": vision.depth,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_heads": vision.num_heads,
        "in_channels": vision.in_channels,
        "patch_size": vision.patch_size,
        "spatial_merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "out_hidden_size": vision.out_hidden_size,
        "num_position_embeddings": vision.num_position_embeddings,
        "deepstack_visual_indexes": list(vision.deepstack_visual_indexes),
    }
