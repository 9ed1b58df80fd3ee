"""Writes trained weights as a checkpoint folder: safetensors with the published tensor names, and the source's small files.

The folder gets its name only when it is complete.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file

from model.qwen3_vl.weights import INDEX_FILE
from model.training.errors import RunFileError

SHARD_SIZE = "5GB"

_SMALL_FILES = ("*.json", "*.jinja", "merges.txt")  # beside the weights: configurations, tokenizer, chat template
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def check_target(folder: Path) -> None:
    """Check that `write` would replace nothing but an older checkpoint. Raises: RunFileError."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / "config.json").is_file():
        raise RunFileError(
            f"model.output is {folder}, which holds other files than a checkpoint. Choose another folder."
        )


def write(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, source: Path, shard_size: str | int = SHARD_SIZE
) -> None:
    """Write `tensors` (by their names in the checkpoint) to `folder`, in the dtypes of the checkpoint in `source`.

    Tensors that `source` lacks, such as a tied head, are left out. An older checkpoint in `folder` is replaced.
    """
    incomplete = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    _copy_small_files(source, incomplete)
    stored = {name: tensors[name].detach().to("cpu", dtype) for name, dtype in _stored_dtypes(source).items()}
    _save(incomplete, stored, shard_size)
    _put_in_place(incomplete, folder)


def _copy_small_files(source: Path, target: Path) -> None:
    for pattern in _SMALL_FILES:
        for file in source.glob(pattern):
            if file.name != INDEX_FILE:
                shutil.copyfile(file, target / file.name)


def _stored_dtypes(source: Path) -> dict[str, torch.dtype]:
    """The dtype of every tensor of a checkpoint, by name."""
    dtypes: dict[str, torch.dtype] = {}
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            dtypes |= {name: _DTYPES[tensors.get_slice(name).get_dtype()] for name in names}
    return dtypes


def _save(folder: Path, tensors: Mapping[str, torch.Tensor], shard_size: str | int) -> None:
    """Write one file, or several with an index, under the file names that Hugging Face uses."""
    shards = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=shard_size)
    for file, names in shards.filename_to_tensors.items():
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _put_in_place(complete: Path, folder: Path) -> None:
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    complete.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
