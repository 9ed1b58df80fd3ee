"""A random checkpoint is one that the library loads."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_checkpoint import write_random_checkpoint
from benchmarks.workloads import model_shape, with_fewer_layers
from model import Reranker, RerankerConfig


def test_a_random_checkpoint_can_be_loaded_and_ranks(tmp_path: Path) -> None:
    shape = with_fewer_layers(model_shape("small"), 2)
    write_random_checkpoint(tmp_path / "random", shape, device="cpu")
    reranker = Reranker.from_checkpoint(tmp_path / "random", RerankerConfig(device="cpu", feature_cache_gpu_bytes=0))
    assert (reranker.model_config.vision, reranker.model_config.text) == (shape.vision, shape.text)
    generator = np.random.default_rng(0)
    pages = [generator.integers(0, 256, (300, 200, 3), dtype=np.uint8) for _ in range(3)]
    assert sorted(reranker.rank("a", pages).order) == [0, 1, 2]


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write_random_checkpoint(tmp_path, model_shape("small"), device="cpu")
