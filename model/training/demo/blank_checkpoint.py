"""Makes the untrained demo checkpoint: the JSON files and tokenizer in a folder, and a network with random weights.

The architecture is Qwen3-VL, scaled down so that a CPU can train it and rank with it.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from model.checkpoint import ARCHITECTURE
from model.config import ModelConfig
from model.qwen3_vl.language_model import SelfAttention
from model.qwen3_vl.network import Network
from model.training.demo.vocabulary import MARKERS, make_tokenizer

PATCH, MERGE, FRAMES = 16, 2, 2
TEXT_WIDTH = 256
EARLY_BLOCK = 2
"""The vision block that gives the only DeepStack feature. It is trained to recognise letters."""

_SHARPNESS = 2.0
"""The initial scale of normalised queries. It bounds how far a head can concentrate its attention."""

_VISION: dict[str, Any] = {
    "depth": 6,
    "hidden_size": 192,
    "intermediate_size": 576,
    "num_heads": 6,
    "in_channels": 3,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": FRAMES,
    "out_hidden_size": TEXT_WIDTH,
    "num_position_embeddings": 1024,
    "deepstack_visual_indexes": [EARLY_BLOCK],
    "hidden_act": "gelu_pytorch_tanh",
    "model_type": "qwen3_vl",
}
_TEXT: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5_000_000.0,
    "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
    "hidden_act": "silu",
    "attention_bias": False,
    "max_position_embeddings": 32_768,
    "model_type": "qwen3_vl_text",
}


def write_blank_checkpoint(folder: Path, *, fewest_pixels: int, most_pixels: int) -> None:
    """Write all files but the weights. Pages are resized to at least `fewest_pixels` and at most `most_pixels` in area."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    ids = {marker: cast(int, tokenizer.convert_tokens_to_ids(marker)) for marker in MARKERS}
    _write(folder / "config.json", _config(len(tokenizer), ids))
    _write(folder / "preprocessor_config.json", _preprocessor_config(fewest_pixels, most_pixels))


def _config(vocabulary_size: int, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
        "vision_config": _VISION,
        "text_config": {**_TEXT, "vocab_size": vocabulary_size, "eos_token_id": ids["<|im_end|>"]},
    }


def _preprocessor_config(fewest_pixels: int, most_pixels: int) -> dict[str, Any]:
    half = [0.5] * 3
    return {
        "image_mean": half,
        "image_std": half,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "size": {"shortest_edge": fewest_pixels, "longest_edge": most_pixels},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_network(config: ModelConfig) -> Network:
    """A network with random weights from torch's current seed. Features and embeddings have a root mean square of about one."""
    network = Network(config)
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    _soften_residuals(network.model.visual.blocks, ("attn.proj", "mlp.linear_fc2"))
    _soften_residuals(network.model.language_model.layers, ("self_attn.o_proj", "mlp.down_proj"))
    for layer in network.model.language_model.layers:
        nn.init.constant_(cast(SelfAttention, layer.self_attn).q_norm.weight, _SHARPNESS)
    nn.init.normal_(network.model.visual.patch_embed.proj.weight, std=0.03)
    nn.init.normal_(network.model.visual.pos_embed.weight, std=0.02)
    nn.init.normal_(network.model.language_model.embed_tokens.weight)
    nn.init.normal_(network.lm_head.weight, std=config.text.hidden_size**-0.5)
    return network


def _soften_residuals(layers: nn.ModuleList, names: tuple[str, ...]) -> None:
    """Scale down the output weights of the layers, so that the initial size of the residual sum does not grow with depth."""
    for layer in layers:
        for name in names:
            with torch.no_grad():
                layer.get_submodule(name).weight.mul_((2 * len(layers)) ** -0.5)  # type: ignore[operator]
