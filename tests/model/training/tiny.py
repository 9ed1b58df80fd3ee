"""A checkpoint that trains in seconds, and examples that it can learn: grey pages, the brightest first."""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from model.checkpoint import read_model_config
from model.qwen3_vl.network import Network
from model.training.examples import RankingExample
from tests.conformance import CHECKPOINT

TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
}  # fmt: skip
VISION: dict[str, Any] = {
    "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
PAGE_SIZE = 64
GREYS = (20, 90, 160, 230)


def make_checkpoint(
    folder: Path,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
) -> Path:
    """Random weights, of the same kind as the conformance checkpoint's, with pages of a few tokens.

    text, vision: sizes other than `TEXT` and `VISION`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in CHECKPOINT.iterdir():
        if file.name != "model.safetensors":
            shutil.copyfile(file, folder / file.name)
    _change(
        folder / "config.json",
        {"text_config": TEXT | dict(text or {}), "vision_config": VISION | dict(vision or {})},
        {"tie_word_embeddings": tied},
    )
    _change(folder / "preprocessor_config.json", {"size": {"shortest_edge": PAGE_SIZE**2}}, {})
    tensors = {name: tensor.to(dtype) for name, tensor in _random_weights(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _change(file: Path, sections: dict[str, dict[str, Any]], keys: dict[str, Any]) -> None:
    content = json.loads(file.read_text())
    for section, values in sections.items():
        content[section] |= values
    file.write_text(json.dumps(content | keys))


def _random_weights(folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = Network(read_model_config(folder))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def grey_page(grey: int) -> Image.Image:
    return Image.new("RGB", (PAGE_SIZE, PAGE_SIZE), (grey, grey, grey))


def make_example(
    greys: Sequence[int], *, id: str = "example", relevant: frozenset[int] = frozenset()
) -> RankingExample:
    """Ranked by brightness."""
    return RankingExample(
        id=id,
        query="the brightest page",
        pages=tuple(partial(grey_page, grey) for grey in greys),
        page_ids=tuple(str(grey) for grey in greys),
        ranking=tuple(sorted(range(len(greys)), key=lambda page: -greys[page])),
        relevant=relevant,
    )
