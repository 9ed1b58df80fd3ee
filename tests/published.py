"""The published sizes with few layers and no values in the weights, on the fake card."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copy
from typing import Any

import torch
from torch import nn

from model import Reranker, RerankerConfig
from model.checkpoint import load_tokenizer, read_model_config
from model.config import ModelConfig
from model.device import Compute, choose_compute
from model.loading import assemble_reranker, plan_loading
from model.qwen3_vl.network import Network
from model.qwen3_vl.weights import build_network
from tests.conformance import CHECKPOINT
from tests.fake_card import FakeCard

_CONFIG = Path(__file__).parent / "data" / "published_config.json"


@cache
def read_published() -> ModelConfig:
    """The published checkpoint's sizes."""
    with tempfile.TemporaryDirectory() as folder:
        copy(_CONFIG, Path(folder) / "config.json")
        copy(CHECKPOINT / "preprocessor_config.json", folder)
        return read_model_config(Path(folder))


def published_model(*, layers: int) -> ModelConfig:
    """The published widths with so many layers a tower, the first three of the vision tower giving DeepStack features.

    With the markers of the small checkpoint's tokenizer.
    """
    published, small = read_published(), read_model_config(CHECKPOINT)
    return replace(
        published,
        vision=replace(published.vision, depth=layers, deepstack_visual_indexes=(0, 1, 2)),
        text=replace(published.text, num_hidden_layers=layers),
        image_token_id=small.image_token_id,
        vision_start_token_id=small.vision_start_token_id,
    )


def make_reranker(card: FakeCard, model_config: ModelConfig, **config: Any) -> Reranker:
    """On the fake card, without a cache unless a test asks for one. torch.compile has no part in this."""
    caches = {"feature_cache_gpu_bytes": 0, "feature_cache_host_bytes": 0}
    settings = {"attention": "torch-varlen", "compile": False, **caches, **config}
    with card.waiting_allowed():
        compute = choose_compute("auto", "auto")
        assert (str(compute.device), compute.dtype) == ("cuda:0", torch.bfloat16)
        plan = plan_loading(RerankerConfig(**settings), model_config, compute, load_tokenizer(CHECKPOINT))
        return assemble_reranker(plan, make_network(model_config, compute))


def make_network(model_config: ModelConfig, compute: Compute) -> Network:
    """Weights without values on the card."""
    network = build_network(model_config)
    for name, parameter in list(network.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        weight = torch.empty(parameter.shape, dtype=compute.dtype, device=compute.device)
        setattr(network.get_submodule(owner), attribute, nn.Parameter(weight, requires_grad=False))
    return network.eval()
