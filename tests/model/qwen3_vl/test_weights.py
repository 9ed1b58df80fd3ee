"""What loading holds in memory, and the parts of a checkpoint that it leaves on the disk.

The CPU's memory stands for a card's: every tensor that is read whole is copied, as it would be to a card, and every tensor that
torch makes is counted while it lives.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from model import CheckpointError, Reranker, RerankerConfig
from model.checkpoint import read_model_config
from model.config import ModelConfig
from model.device import Compute
from model.qwen3_vl.network import Network
from model.qwen3_vl.weights import build_network, load_network
from tests.conformance import CASES, CHECKPOINT
from tests.model.training.tiny import make_checkpoint
from tests.whole_networks import load_whole

IN_FLOAT32 = Compute(device=torch.device("cpu"), dtype=torch.float32, reason="for tests")
IN_HALF = Compute(device=torch.device("cpu"), dtype=torch.bfloat16, reason="for tests")
LETTERS = (33, 34, 35)
SMALL_CHANGE = 2**12  # bytes of the scales and the norms of a layer that is being rounded


class LikeOnACard:
    """A safetensors file whose tensors are copied as a whole when they are read; slices are views of the file."""

    def __init__(self, file: Path, **options: Any) -> None:
        self._file = safe_open(file, **options)

    def __enter__(self) -> "LikeOnACard":
        self._file.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._file.__exit__(*problem)

    def keys(self) -> Sequence[str]:
        return list(self._file.keys())

    def get_slice(self, name: str) -> Any:
        return self._file.get_slice(name)

    def get_tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor.clone()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are still alive; memory of files is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.largest = 0
        self._of_files: set[int] = set()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self._note(tensor.untyped_storage(), is_of_file="set_" in str(operation))
        self.peak = max(self.peak, self.now)
        return out

    def _note(self, storage: torch.UntypedStorage, *, is_of_file: bool) -> None:
        if is_of_file:
            self._of_files.add(storage.data_ptr())
        elif storage.data_ptr() not in self._of_files:
            self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
            self.largest = max(self.largest, storage.nbytes())

    @property
    def now(self) -> int:
        self._made = {key: (weak, size) for key, (weak, size) in self._made.items() if not weak.expired()}
        return sum(size for _, size in self._made.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16 whose weight lies in many decoder layers, as in the published one."""
    return make_checkpoint(
        tmp_path_factory.mktemp("deep"), dtype=torch.bfloat16, text={"num_hidden_layers": 8, "hidden_size": 64,
        "intermediate_size": 1024}, vision={"out_hidden_size": 64},
    )  # fmt: skip


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> LiveBytes:
    monkeypatch.setattr("model.qwen3_vl.weights.safe_open", LikeOnACard)
    # The published weights have up to 12 blocks of rows; these should have several too.
    monkeypatch.setattr("model.quantisation._VALUES_AT_ONCE", 2**13)
    return LiveBytes()


def layer_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of one decoder layer."""
    layer = build_network(config).model.language_model.layers[0]
    return sum(parameter.numel() for parameter in layer.parameters()) * dtype.itemsize


def held_bytes(network: Network) -> int:
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in network.state_dict().values()}
    return sum(tensors.values())


@pytest.mark.parametrize("compute", [IN_FLOAT32, IN_HALF], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("quantise", ["int8", "fp8"])
def test_a_quantised_decoder_is_never_in_memory_unrounded(
    folder: Path, live: LiveBytes, quantise: str, compute: Compute
) -> None:
    config = read_model_config(folder)
    with live:
        network = load_network(folder, config, compute, quantise=quantise, head_rows=LETTERS)
    one_layer = layer_bytes(config, compute.dtype)
    held = held_bytes(network)
    assert live.now == pytest.approx(held, abs=SMALL_CHANGE)
    assert live.peak <= held + one_layer + SMALL_CHANGE
    whole_decoder = config.text.num_hidden_layers * one_layer
    assert (
        held + one_layer < whole_decoder
    )  # so the bound would be broken by a decoder that is rounded after it is loaded


def test_of_the_head_only_the_asked_for_rows_are_read(folder: Path, live: LiveBytes) -> None:
    config = read_model_config(folder)
    with live:
        network = load_network(folder, config, IN_HALF, head_rows=LETTERS)
    stored = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(network.lm_head.weight, stored[list(LETTERS)])
    assert torch.equal(network.head_weights(LETTERS[::-1]), stored[list(LETTERS[::-1])])
    assert live.peak <= held_bytes(network) + SMALL_CHANGE  # in the file's dtype: nothing is made that is not kept
    embeddings = network.model.language_model.embed_tokens.weight.nbytes
    assert stored.nbytes == embeddings > SMALL_CHANGE


def test_of_a_tied_head_only_the_asked_for_rows_are_copied(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, tied=True)
    network = load_network(folder, read_model_config(folder), IN_FLOAT32, head_rows=LETTERS)
    table = load_file(folder / "model.safetensors")["model.language_model.embed_tokens.weight"]
    assert torch.equal(network.lm_head.weight, table[list(LETTERS)])
    assert torch.equal(network.model.language_model.embed_tokens.weight, table)


def test_the_whole_head_is_there_where_no_rows_are_asked_for(folder: Path) -> None:
    network = load_network(folder, read_model_config(folder), IN_HALF)
    stored = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(network.lm_head.weight, stored) and network.head_rows is None
    assert torch.equal(network.head_weights(LETTERS), stored[list(LETTERS)])


def test_a_row_that_was_not_loaded_cannot_be_had(folder: Path) -> None:
    network = load_network(folder, read_model_config(folder), IN_HALF, head_rows=LETTERS)
    with pytest.raises(ValueError, match="not in"):
        network.head_weights((LETTERS[0], 1))


def test_a_row_outside_of_the_vocabulary_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="id 1000000 is not among"):
        load_network(folder, read_model_config(folder), IN_HALF, head_rows=(1, 1_000_000))


def test_scores_are_those_of_the_whole_head(reranker: Reranker) -> None:
    whole = load_whole(CHECKPOINT, reranker.config)
    assert torch.equal(reranker.letter_rows, whole.letter_rows) and reranker.letter_rows.shape[0] == 20
    for case in CASES[:3]:
        ours, theirs = (run.rank(case.query, case.pages(), case.keep_ratio) for run in (reranker, whole))
        assert ours.logits == theirs.logits


@pytest.mark.parametrize("quantise", ["fp8", "int8"])
def test_a_network_in_memory_is_quantised_as_one_that_is_loaded(quantise: str) -> None:
    config = RerankerConfig(device="cpu", dtype="float32", quantise=quantise)
    loaded, in_memory = Reranker.from_checkpoint(CHECKPOINT, config), load_whole(CHECKPOINT, config)
    ours, theirs = (run.network.model.language_model.state_dict() for run in (loaded, in_memory))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].float(), theirs[name].float()) for name in ours)
    assert not any(isinstance(module, nn.Linear) for module in in_memory.network.model.language_model.modules())


def test_a_quantised_checkpoint_in_shards_loads_alike(folder: Path, tmp_path: Path) -> None:
    """A decoder layer may lie in two files."""
    sharded = Path(shutil.copytree(folder, tmp_path / "sharded"))
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    files = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    one, other = (
        load_network(source, read_model_config(source), IN_HALF, quantise="int8", head_rows=LETTERS).state_dict()
        for source in (folder, sharded)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
