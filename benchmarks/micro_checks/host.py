"""Checks of what lies between the host and the device: single values, copies, resizing on the one or the other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import exact_resize
from benchmarks.micro_checks.check import NEEDS_CUDA, Sizes, attempt, milliseconds
from model.device import Compute, seconds_of

_RESIZED = (1024, 736)  # height and width of an A4 page on the model's grid
_PAGE = (1024, 724)


def check_single_values(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """One `.item()` for every visual token of a request, as the published pruning does it."""
    flags = torch.rand(sizes.visual_tokens, device=compute.device) > 0.5
    seconds = seconds_of(lambda: [flags[index].item() for index in range(len(flags))], compute.device)
    return {
        "values": len(flags),
        "ms": round(seconds * 1000, 2),
        "microseconds_each": round(seconds / len(flags) * 1e6, 2),
    }


def check_copies(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """Pages to the device as float32 patches and as bytes, and rows of cached features out of host memory."""
    if compute.device.type == "cpu":
        return {"status": NEEDS_CUDA}
    vision = sizes.model.vision
    values = sizes.page_patches * sizes.pages * vision.patch_values
    pages = {
        "float32 patches": torch.rand(values),
        "bytes": torch.zeros(values // vision.temporal_patch_size, dtype=torch.uint8),
    }
    return {
        "pages": {name: _time_copy(tensor, compute) for name, tensor in pages.items()},
        "features": _time_features(compute, sizes),
    }


def _time_copy(tensor: torch.Tensor, compute: Compute) -> dict[str, Any]:
    pinned = tensor.pin_memory()
    times = {
        "pageable_ms": attempt(lambda: milliseconds(lambda: tensor.to(compute.device), compute)),
        "pinned_ms": attempt(lambda: milliseconds(lambda: pinned.to(compute.device, non_blocking=True), compute)),
    }
    return {"mebibytes": round(tensor.nbytes / 2**20, 1), **times}


def _time_features(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """A quarter of a request's features from pinned memory: all copied, then chosen; or chosen on the host, then copied."""
    width = sizes.model.vision.out_hidden_size
    features = torch.randn(sizes.visual_tokens, width).to(compute.dtype).pin_memory()
    rows = torch.arange(0, sizes.visual_tokens, 4)
    rows_there = rows.to(compute.device)

    def copy_then_choose() -> torch.Tensor:
        return features.to(compute.device, non_blocking=True).index_select(0, rows_there)

    def choose_then_copy() -> torch.Tensor:
        return features.index_select(0, rows).pin_memory().to(compute.device, non_blocking=True)

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "copy_then_choose_ms": copy_then_choose,
        "choose_then_copy_ms": choose_then_copy,
    }
    times = {name: attempt(partial(milliseconds, way, compute)) for name, way in ways.items()}
    return {"mebibytes": round(features.nbytes / 2**20, 1), **times}


def check_resize(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """An A4 page to the model's grid: by Pillow, and by float64 products on the device, which must not differ in any value."""
    pixels = np.random.default_rng(0).integers(0, 256, (*_PAGE, 3), dtype=np.uint8)
    image, there = Image.fromarray(pixels), torch.from_numpy(pixels).to(compute.device)
    height, width = _RESIZED
    by_pillow = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    resize = exact_resize.make_resize(_PAGE, _RESIZED, compute.device)
    by_products = resize(there).cpu().numpy()
    return {
        "differing_values": int((by_pillow != by_products).sum()),
        "pillow_ms": attempt(
            lambda: milliseconds(lambda: image.resize((width, height), Image.Resampling.BICUBIC), compute)
        ),
        "products_ms": attempt(lambda: milliseconds(lambda: resize(there), compute)),
    }
