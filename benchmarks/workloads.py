"""Pages, weights and sizes that several benchmarks share. Random weights are never zero: products of zeros run faster."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.checkpoint import BUNDLED, load_tokenizer, read_model_config
from model.config import ImageConfig, ModelConfig, RerankerConfig, TextConfig, VisionConfig
from model.device import Compute, choose_compute
from model.image_processor import smart_resize
from model.loading import assemble_reranker, plan_loading
from model.published import PUBLISHED_SIZES
from model.qwen3_vl.network import Network
from model.qwen3_vl.weights import build_network
from model.reranker import Reranker

SHAPES = ("published", "small", "demo")

PAGE_SIZES = {"a4": (724, 1024), "letter": (791, 1024), "16:9": (1024, 576)}  # (width, height) at 1024 px
LONGEST_EDGES = {"published": 1024, "small": 480, "demo": 1024}
"""Pixels of a page's longest edge, by shape. Attention grows with the square of the page and everything else with the width of
the network, so the small network gets small pages: its stages then stand to each other much as the published one's."""

WEIGHT_DEVIATION = 0.02
"""At the published width; narrower networks get larger weights, so that their scores depend on the pages as much."""

PUBLISHED_TEXT, PUBLISHED_IMAGE = PUBLISHED_SIZES.text, PUBLISHED_SIZES.image

SMALL_VISION = VisionConfig(
    depth=4, hidden_size=256, intermediate_size=960, num_heads=4, in_channels=3, patch_size=16, spatial_merge_size=2,
    temporal_patch_size=2, out_hidden_size=512, num_position_embeddings=2304, deepstack_visual_indexes=(1, 2, 3),
)  # fmt: skip
SMALL_TEXT = TextConfig(
    vocab_size=6_400, hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8,
    num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-6, rope_theta=5e6, mrope_section=(12, 10, 10),
)  # fmt: skip


def model_shape(name: str) -> ModelConfig:
    """`published` (8B), `small` (its proportions for two CPU cores), or `demo` (the bundled one).

    The tokenizer is the bundled one for all of them: its ids are in range.
    """
    demo = read_model_config(BUNDLED["demo"])
    shapes = {
        "published": replace(demo, vision=PUBLISHED_SIZES.vision, text=PUBLISHED_TEXT, image=PUBLISHED_IMAGE),
        "small": replace(demo, vision=SMALL_VISION, text=SMALL_TEXT, image=PUBLISHED_IMAGE),
        "demo": demo,
    }
    return shapes[name]


def write_checkpoint_for_full_pages(folder: Path) -> Path:
    """The bundled checkpoint in `folder`, but for pages of the published size: 1024 px, where the bundled one shrinks them, and
    280 px for texts."""
    shutil.copytree(BUNDLED["demo"], folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    del settings["text_page"]
    settings["size"] = {"shortest_edge": PUBLISHED_IMAGE.min_pixels, "longest_edge": PUBLISHED_IMAGE.max_pixels}
    path.write_text(json.dumps(settings))
    return folder


def with_fewer_layers(config: ModelConfig, layers: int) -> ModelConfig:
    """The same widths with at most `layers` layers in each tower, DeepStack taken after the first of them."""
    levels = min(len(config.vision.deepstack_visual_indexes), layers)
    return replace(
        config,
        vision=replace(
            config.vision, depth=min(config.vision.depth, layers), deepstack_visual_indexes=tuple(range(levels))
        ),
        text=replace(config.text, num_hidden_layers=min(config.text.num_hidden_layers, layers)),
    )


def make_reranker(config: RerankerConfig, model_config: ModelConfig, network: Network) -> Reranker:
    """A reranker over an existing network; where `config` asks for a quantisation, its decoder is quantised in place."""
    compute = choose_compute(config.device, config.dtype)
    return assemble_reranker(plan_loading(config, model_config, compute, load_tokenizer(BUNDLED["demo"])), network)


def random_network(config: ModelConfig, compute: Compute, *, seed: int = 0) -> Network:
    """Normal random weights, made on the device itself."""
    network = build_network(config).to(compute.dtype).to_empty(device=compute.device).eval().requires_grad_(False)
    generator = torch.Generator(compute.device).manual_seed(seed)
    deviation = WEIGHT_DEVIATION * math.sqrt(PUBLISHED_TEXT.hidden_size / config.text.hidden_size)
    for name, parameter in network.named_parameters():
        parameter.normal_(std=deviation, generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)
    return network


def random_pages(count: int, *, longest_edge: int = 1024, seed: int = 0) -> list[Image.Image]:
    """Decoded pages in a mix of A4, Letter and 16:9: noise, which costs the same as text from here on."""
    generator = np.random.default_rng(seed)
    sizes = [tuple(side * longest_edge // 1024 for side in size) for size in PAGE_SIZES.values()]
    pages = []
    for index in range(count):
        width, height = sizes[index % len(sizes)]
        pages.append(Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)))
    return pages


def on_grid(page: Image.Image, config: ImageConfig) -> Image.Image:
    """A page that needs no resize any more: there the library's processor on a CPU (Pillow) and the published one (torch's
    kernel, as ours) differ by one level in some values."""
    height, width = smart_resize(page.height, page.width, config)
    return page.resize((width, height))


def multiply_adds(config: ModelConfig, *, patches_by_page: Sequence[int], tokens: int) -> dict[str, float]:
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
