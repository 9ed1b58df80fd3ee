"""A checkpoint folder of random weights at the published size, for load on a card where the published one is not at hand.

    python -m benchmarks.random_checkpoint /models/random                 # about 17 GB
    python -m benchmarks.random_checkpoint /tmp/small --shape small       # a trial of the code

Scores mean nothing; times are those of the published checkpoint. Tokenizer and chat template are the bundled demo's.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.workloads import SHAPES, model_shape, random_network
from model.checkpoint import BUNDLED
from model.config import ModelConfig
from model.device import choose_compute

_SHARD_LAYERS = 6  # decoder layers in one file: about 2.3 GB at the published size
_DECODER_LAYERS = "model.language_model.layers."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="must not exist yet")
    parser.add_argument("--shape", choices=SHAPES, default="published")
    parser.add_argument("--device", default="auto", help="that draws the weights: auto, cpu, cuda or cuda:N")
    options = parser.parse_args()
    write_random_checkpoint(options.folder, model_shape(options.shape), device=options.device)
    print(f"wrote {sum(path.stat().st_size for path in options.folder.iterdir()) / 1e9:.1f} GB to {options.folder}")


def write_random_checkpoint(folder: Path, config: ModelConfig, *, device: str = "auto") -> None:
    """In bfloat16, in shards. Raises: FileExistsError."""
    shutil.copytree(BUNDLED["demo"], folder, ignore=shutil.ignore_patterns("*.safetensors", "*.log", "*.md"))
    _describe(folder, config)
    network = random_network(config, choose_compute(device, "bfloat16"))
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        shards.setdefault(_shard_of(name), {})[name] = parameter.data
    for file, tensors in shards.items():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _shard_of(name: str) -> str:
    """The decoder's layers by sixes; everything else in one file."""
    if not name.startswith(_DECODER_LAYERS):
        return "model-rest.safetensors"
    layer = int(name.removeprefix(_DECODER_LAYERS).partition(".")[0])
    return f"model-layers-{layer // _SHARD_LAYERS:02}.safetensors"


def _describe(folder: Path, config: ModelConfig) -> None:
    """config.json and preprocessor_config.json of these sizes, in the form of the published ones."""

    def change(raw: dict[str, Any]) -> None:
        text = asdict(config.text)
        raw["text_config"]["rope_scaling"]["mrope_section"] = text.pop("mrope_section")
        raw["text_config"] |= text
        raw["vision_config"] |= asdict(config.vision)
        raw["tie_word_embeddings"] = config.tie_word_embeddings

    def resize(raw: dict[str, Any]) -> None:
        raw["size"] = {"shortest_edge": config.image.min_pixels, "longest_edge": config.image.max_pixels}

    for name, edit in (("config.json", change), ("preprocessor_config.json", resize)):
        path = folder / name
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
