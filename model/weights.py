"""Load a checkpoint's safetensors, single-file or sharded, into the network by name.

Names and shapes are compared before anything is read; every difference is a CheckpointError that names the tensor.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from model.config import ModelConfig
from model.device import Compute
from model.errors import CheckpointError
from model.network import Network

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies, and its shape."""

    file: Path
    shape: tuple[int, ...]


def load_network(folder: Path, config: ModelConfig, compute: Compute) -> Network:
    """The network with the checkpoint's weights on the device, in the chosen dtype, ready for inference.

    Raises: CheckpointError for a missing, surplus or wrongly shaped tensor and for an unreadable file.
    """
    network = build_network(config)
    expected = expected_shapes(network)
    found = _find_tensors(folder)
    _compare(expected, found, optional={"lm_head.weight"} if config.tie_word_embeddings else set())
    _fill(network, {name: found[name].file for name in expected}, compute)
    if config.tie_word_embeddings:
        network.lm_head.weight = network.model.language_model.embed_tokens.weight
    return network.eval().requires_grad_(False)


def build_network(config: ModelConfig) -> Network:
    """The network without memory behind its parameters."""
    with torch.device("meta"):
        return Network(config)


def expected_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its checkpoint name. A tied head counts once, as the embedding table."""
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def parameter_count(config: ModelConfig) -> int:
    """Weights of the whole network, a tied head counted once."""
    return sum(math.prod(shape) for shape in expected_shapes(build_network(config)).values())


def _find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint by name."""
    if (folder / INDEX_FILE).is_file():
        return _find_sharded_tensors(folder)
    if not (folder / SINGLE_FILE).is_file():
        raise CheckpointError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}.")
    return _read_header(folder / SINGLE_FILE)


def _find_sharded_tensors(folder: Path) -> dict[str, StoredTensor]:
    try:
        weight_map = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
        shards = {name: folder / Path(file).name for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX_FILE} is not a weight index: {error!r}") from error
    headers = {shard: _read_header(shard) for shard in set(shards.values())}
    for name, shard in shards.items():
        if name not in headers[shard]:
            raise CheckpointError(f"{INDEX_FILE} says that {name} is in {shard.name}, and it is not.")
    return {name: headers[shard][name] for name, shard in shards.items()}


def _read_header(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {
                name: StoredTensor(file=file, shape=tuple(tensors.get_slice(name).get_shape()))
                for name in tensors.keys()  # noqa: SIM118 (a safe_open handle is no mapping)
            }
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error


def _compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor], *, optional: set[str]) -> None:
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected and name not in optional]
    misshapen = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    for problem, names in (("lacks", missing), ("has surplus", surplus), ("has wrongly shaped", misshapen)):
        if names:
            more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
            raise CheckpointError(f"The checkpoint {problem} tensors: {'; '.join(names[:_NAMED_AT_MOST])}{more}.")


def _fill(network: Network, files: Mapping[str, Path], compute: Compute) -> None:
    """File by file, tensor by tensor, so that at most one tensor is in memory twice."""
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt", device=str(compute.device)) as tensors:
            for name in (name for name, holder in files.items() if holder == file):
                _assign(network, name, tensors.get_tensor(name).to(compute.dtype))


def _assign(network: Network, name: str, tensor: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, torch.nn.Parameter(tensor, requires_grad=False))
