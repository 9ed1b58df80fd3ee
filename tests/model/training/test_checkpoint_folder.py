import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model import RerankerConfig
from model.training import checkpoint_folder
from model.training.errors import RunFileError
from tests.model.training.tiny import make_checkpoint
from tests.whole_networks import load_whole

CPU = RerankerConfig(device="cpu", keep_ratio=1.0)


def half_of(source: Path) -> dict[str, torch.Tensor]:
    """Other weights than the source's, in float32."""
    return {name: tensor.float() / 2 for name, tensor in load_file(source / "model.safetensors").items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_have_the_names_and_the_dtype_of_the_source(tmp_path: Path, dtype: torch.dtype) -> None:
    source = make_checkpoint(tmp_path / "source", dtype=dtype)
    tensors = half_of(source)
    checkpoint_folder.write(tmp_path / "out", tensors, source=source)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in written.items()} == {
        name: (dtype, tensor.shape) for name, tensor in tensors.items()
    }
    assert all(torch.equal(written[name], tensor.to(dtype)) for name, tensor in tensors.items())


def test_large_weights_are_sharded_with_an_index_and_load(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    checkpoint_folder.write(tmp_path / "out", half_of(source), source=source, shard_size=100_000)
    shards = sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    weight = load_whole(tmp_path / "out", CPU).network.lm_head.weight
    assert torch.equal(weight, half_of(source)["lm_head.weight"])


def test_a_tied_head_is_left_out_and_loads(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", tied=True)
    table = half_of(source)["model.language_model.embed_tokens.weight"]
    checkpoint_folder.write(tmp_path / "out", {**half_of(source), "lm_head.weight": table}, source=source)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(load_whole(tmp_path / "out", CPU).network.lm_head.weight, table)


def test_the_small_files_of_the_source_come_along(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    checkpoint_folder.write(tmp_path / "out", half_of(source), source=source)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in source.iterdir()}
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_a_checkpoint_can_be_written_over_the_one_it_came_from(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    tensors = half_of(source)
    checkpoint_folder.write(source, tensors, source=source)
    assert torch.equal(load_file(source / "model.safetensors")["lm_head.weight"], tensors["lm_head.weight"])
    assert [folder.name for folder in tmp_path.iterdir()] == ["source"]  # nothing is left beside it


def test_a_failed_write_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    before = (source / "model.safetensors").read_bytes()
    with pytest.raises(KeyError):
        checkpoint_folder.write(source, {}, source=source)
    assert (source / "model.safetensors").read_bytes() == before


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path: Path) -> None:
    checkpoint_folder.check_target(tmp_path)  # empty
    checkpoint_folder.check_target(tmp_path / "new")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFileError, match="which holds other files than a checkpoint"):
        checkpoint_folder.check_target(tmp_path)
