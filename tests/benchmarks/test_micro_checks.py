"""The checks for a card: they run anywhere, and one that fails does not take the others with it."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.exact_resize import make_resize
from benchmarks.micro_checks.check import ON_CPU, Sizes, run_check
from benchmarks.micro_checks.host import check_copies, check_single_values
from benchmarks.micro_checks.kernels import check_attention, check_matrix_products, check_patch_embedding
from model.device import Compute, choose_compute

COMPUTE = choose_compute("cpu", "float32")


@pytest.mark.parametrize("check", [check_attention, check_matrix_products, check_patch_embedding, check_single_values])
def test_check_runs_on_a_cpu_at_its_small_sizes(check: object) -> None:
    assert callable(check)
    assert run_check(check, COMPUTE, ON_CPU)["status"] == "done"


def test_a_check_that_needs_a_card_says_so() -> None:
    assert run_check(check_copies, COMPUTE, ON_CPU)["status"] == "needs CUDA"


def test_a_check_that_fails_reports_the_first_line_of_its_error() -> None:
    def fail(compute: Compute, sizes: Sizes) -> dict[str, object]:
        raise RuntimeError("no kernel image\nis available")

    record = run_check(fail, COMPUTE, ON_CPU)
    assert (record["status"], record["error"]) == ("failed", "RuntimeError: no kernel image")


@pytest.mark.parametrize(
    ("size", "new_size"), [((1024, 724), (1024, 736)), ((400, 600), (416, 608)), ((80, 100), (256, 320))]
)
def test_resize_by_products_is_pillows_bit_for_bit(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    by_pillow = np.array(Image.fromarray(pixels).resize(new_size[::-1], Image.Resampling.BICUBIC))
    by_products = make_resize(size, new_size, torch.device("cpu"))(torch.from_numpy(pixels)).numpy()
    assert np.array_equal(by_products, by_pillow)
