"""Loads a checkpoint's safetensors files, single or sharded, into the network by name.

Names and shapes are compared before any values are read. Every difference is a CheckpointError that names the tensor.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from model.config import ModelConfig
from model.device import Compute, give_back_memory
from model.errors import CheckpointError
from model.quantisation import quantised
from model.qwen3_vl.network import Network

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DECODER_LAYERS = "model.language_model.layers."
_HEAD = "lm_head.weight"
_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor's file, and its shape and dtype from the file's header."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # in safetensors notation: BF16, F16, F32


def load_network(
    folder: Path,
    config: ModelConfig,
    compute: Compute,
    *,
    quantise: str = "none",
    head_rows: Sequence[int] | None = None,
) -> Network:
    """The network with the checkpoint's weights on the device, in the chosen dtype, ready for inference.

    quantise: none, fp8 or int8. The decoder's linear maps are quantised one at a time while they are read, so that the device
        holds at most one of them unquantised.
    head_rows: vocabulary ids of the rows of the head to read; None: all.
    Raises: CheckpointError for a missing, surplus or wrongly shaped tensor, an unreadable file, or a head row outside the
        vocabulary.
    """
    network = build_network(config)
    found = find_tensors(folder, network, config)
    if head_rows is not None and max(head_rows) >= config.text.vocab_size:
        raise CheckpointError(
            f"The tokenizer's id {max(head_rows)} is not among the {config.text.vocab_size} rows of {_HEAD}. "
            "Use the tokenizer that belongs to the weights."
        )
    files = {name: found[name].file for name in expected_shapes(network)}
    head_file = None if head_rows is None else files.pop(_HEAD, None)
    _load_tensors(network, files, compute, quantise)
    if config.tie_word_embeddings:
        network.lm_head.weight = network.model.language_model.embed_tokens.weight
    if head_rows is not None:
        _keep_head_rows(network, head_rows, head_file, compute)
    give_back_memory(compute.device)
    return network.eval().requires_grad_(False)


def build_network(config: ModelConfig) -> Network:
    """The network on the meta device: shapes without memory."""
    with torch.device("meta"):
        return Network(config)


def expected_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its name in the checkpoint. A tied head appears once, as the embedding table."""
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def parameter_count(config: ModelConfig) -> int:
    """Number of weights of the whole network, counting a tied head once."""
    return sum(math.prod(shape) for shape in expected_shapes(build_network(config)).values())


def find_tensors(folder: Path, network: Network, config: ModelConfig) -> dict[str, StoredTensor]:
    """The checkpoint's tensors by name. Reads only the headers of its files.

    Raises: CheckpointError for an unreadable file, and for a missing, surplus or wrongly shaped tensor.
    """
    if (folder / INDEX_FILE).is_file():
        found = _find_sharded_tensors(folder)
    elif (folder / SINGLE_FILE).is_file():
        found = _read_header(folder / SINGLE_FILE)
    else:
        raise CheckpointError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}. Download the weights.")
    _require_matching_tensors(
        expected_shapes(network), found, optional={_HEAD} if config.tie_word_embeddings else set()
    )
    return found


def _find_sharded_tensors(folder: Path) -> dict[str, StoredTensor]:
    try:
        weight_map = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
        shards = {name: folder / Path(file).name for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX_FILE} is not a weight index: {error!r}") from error
    headers = {shard: _read_header(shard) for shard in set(shards.values())}
    for name, shard in shards.items():
        if name not in headers[shard]:
            raise CheckpointError(f"According to {INDEX_FILE}, {name} is in {shard.name}, but that file lacks it.")
    return {name: headers[shard][name] for name, shard in shards.items()}


def _read_header(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (a handle is no mapping)
            return {
                name: StoredTensor(file=file, shape=tuple(stored.get_shape()), dtype=stored.get_dtype())
                for name, stored in slices.items()
            }
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing. Download it.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error


def _require_matching_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor], *, optional: set[str]
) -> None:
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


def _load_tensors(network: Network, files: Mapping[str, Path], compute: Compute, quantise: str) -> None:
    """Load tensors one at a time, so that at most one of them is in memory twice.

    A stored tensor is never held by a variable, which would keep it in memory while the next one is read.
    """
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt", device=str(compute.device)) as tensors:
            for name in (name for name, holder in files.items() if holder == file):
                path, _, attribute = name.rpartition(".")
                owner = network.get_submodule(path)
                if quantise != "none" and name.startswith(_DECODER_LAYERS) and isinstance(owner, nn.Linear):
                    network.set_submodule(path, quantised(owner, tensors.get_tensor(name), quantise))
                else:
                    values = nn.Parameter(tensors.get_tensor(name).to(compute.dtype), requires_grad=False)
                    setattr(owner, attribute, values)


def _keep_head_rows(network: Network, rows: Sequence[int], head_file: Path | None, compute: Compute) -> None:
    """Give the head only these rows: from its file, or if it is tied (`head_file` is None) from the loaded embedding table."""
    if head_file is None:
        weight = network.lm_head.weight[list(rows)]
    else:
        weight = _read_rows(head_file, _HEAD, rows).to(compute.device, compute.dtype)
    network.lm_head.weight = nn.Parameter(weight, requires_grad=False)
    network.lm_head.out_features = len(rows)
    network.head_rows = tuple(rows)


def _read_rows(file: Path, name: str, rows: Sequence[int]) -> torch.Tensor:
    """Read only these rows of a tensor: (rows, values) on the CPU."""
    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_slice(name)
        return torch.cat([stored[row : row + 1] for row in rows])
