"""Pages, weights and sizes that several benchmarks share. Random weights are never zero: products of zeros run faster."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from model.checkpoint import BUNDLED, load_tokenizer, read_model_config
from model.config import ModelConfig, RerankerConfig, TextConfig, VisionConfig
from model.device import Compute, choose_compute
from model.network import Network
from model.reranker import Reranker
from model.weights import build_network

PAGE_SIZES = {"a4": (1024, 724), "letter": (1024, 791), "16:9": (576, 1024)}  # (height, width) at 1024 px
WEIGHT_DEVIATION = 0.02

PUBLISHED_VISION = VisionConfig(
    depth=27, hidden_size=1152, intermediate_size=4304, num_heads=16, in_channels=3, patch_size=16, spatial_merge_size=2,
    temporal_patch_size=2, out_hidden_size=4096, num_position_embeddings=2304, deepstack_visual_indexes=(8, 16, 24),
)  # fmt: skip
PUBLISHED_TEXT = TextConfig(
    vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
    num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=5e6, mrope_section=(24, 20, 20),
)  # fmt: skip


def model_shape(name: str) -> ModelConfig:
    """`published` (8B), or `demo` (the bundled one). The tokenizer is the bundled one for both: its ids are in range."""
    demo = read_model_config(BUNDLED["demo"])
    return replace(demo, vision=PUBLISHED_VISION, text=PUBLISHED_TEXT) if name == "published" else demo


def random_reranker(shape: str, config: RerankerConfig, *, seed: int = 0) -> Reranker:
    """A reranker of the given shape with normal random weights, made on the device itself."""
    model_config, compute = model_shape(shape), choose_compute(config.device, config.dtype)
    tokenizer = load_tokenizer(BUNDLED["demo"])
    return Reranker.assemble(
        config, model_config, compute, tokenizer, lambda: _random_network(model_config, compute, seed)
    )


def _random_network(config: ModelConfig, compute: Compute, seed: int) -> Network:
    network = build_network(config).to(compute.dtype).to_empty(device=compute.device).eval().requires_grad_(False)
    generator = torch.Generator(compute.device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        parameter.normal_(std=WEIGHT_DEVIATION, generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)
    return network


def random_pages(count: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Pages in a mix of A4, Letter and 16:9, uint8 (height, width, 3)."""
    generator = np.random.default_rng(seed)
    sizes = list(PAGE_SIZES.values())
    for index in range(count):
        yield generator.integers(0, 256, (*sizes[index % len(sizes)], 3), dtype=np.uint8)


def multiply_adds(config: ModelConfig, *, patches_by_page: list[int], tokens: int) -> dict[str, float]:
    """Floating-point operations by stage that the model's definition needs (two a multiply-add); one prompt."""
    vision, text = config.vision, config.text
    hidden, joined = vision.hidden_size, vision.hidden_size * vision.merge_unit
    patches = sum(patches_by_page)
    block = 2 * patches * (4 * hidden**2 + 2 * hidden * vision.intermediate_size)
    attention = sum(4 * count**2 * hidden for count in patches_by_page)
    mergers = (1 + len(vision.deepstack_visual_indexes)) * patches / vision.merge_unit
    merger = 2 * mergers * (joined**2 + joined * vision.out_hidden_size)
    query, key = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    keys_and_values = 4 * text.hidden_size * key
    rest = 4 * text.hidden_size * query + 6 * text.hidden_size * text.intermediate_size
    layers = text.num_hidden_layers
    return {
        "vision": 2 * patches * vision.patch_values * hidden + vision.depth * (block + attention) + merger,
        "language": tokens * (layers * keys_and_values + (layers - 1) * rest) + (layers - 1) * 2 * tokens**2 * query,
    }
