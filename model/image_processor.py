"""Turns page images into the model's patches: resizes on the CPU, normalises and cuts patches on the device.

Pages are uploaded as uint8, with a quarter of the bytes of float32.
Source: the published preprocessing, i.e. Qwen2-VL's "smart resize" (transformers `Qwen2VLImageProcessor`).
"""

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from model.config import ImageConfig
from model.dataflow import PageImage, PreparedPage
from model.errors import PageImageError
from model.pages.image import MAX_ASPECT_RATIO, UnreadableSamplesError, to_page


def prepare_page(
    page: Image.Image | np.ndarray | PageImage, config: ImageConfig, *, tenant: bytes = b""
) -> PreparedPage:
    """Fit a page of any size to the model's grid. `tenant` enters the content hash, so tenants never share cached features.

    Raises: PageImageError for an array that is not uint8 (height, width, 3), an empty image, grey samples out of range, or
    one side over 200 times the other.
    """
    pixels = page.pixels if isinstance(page, PageImage) else to_page_image(page).pixels
    height, width = pixels.shape[:2]
    grid_height, grid_width = smart_resize(height, width, config)
    if (grid_height, grid_width) != (height, width):
        pixels = _resize(pixels, grid_height, grid_width)
    pixels = np.ascontiguousarray(pixels)
    unit = config.grid_unit
    return PreparedPage(
        pixels=pixels,
        rows=grid_height // unit,
        columns=grid_width // unit,
        content_hash=_content_hash(pixels, tenant),
    )


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (height, width, 3), bicubic, by torch's uint8 kernel, which gave the published numbers.

    Pillow's kernel differs by one level in some values and takes more than twice the time. The permutations are views, so
    neither side is copied.
    """
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # (1, 3, h, w)
    resized = F.interpolate(image, (height, width), mode="bicubic", align_corners=False, antialias=True)
    out: np.ndarray = resized.permute(0, 2, 3, 1)[0].numpy()  # (height, width, 3)
    return out


def _content_hash(pixels: np.ndarray, tenant: bytes) -> bytes:
    digest = hashlib.sha256(f"{len(tenant)} {pixels.shape} ".encode() + tenant)
    digest.update(pixels.data)  # releases the GIL
    return digest.digest()


def to_page_image(page: Image.Image | np.ndarray) -> PageImage:
    """The page upright, in RGB over white, with a longest edge of at most 1024 px (see `pages.image`).

    Raises: PageImageError.
    """
    if isinstance(page, np.ndarray):
        if page.dtype != np.uint8 or page.ndim != 3 or page.shape[2] != 3 or page.size == 0:
            raise PageImageError(
                f"A page array must be uint8 (height, width, 3), got {page.dtype} {page.shape}. "
                "Convert it, or pass a PIL image."
            )
        page = Image.fromarray(page)
    if min(page.size) < 1:
        raise PageImageError(f"The page is {page.width} x {page.height} px; both sides must be at least 1 px.")
    try:
        return PageImage(pixels=np.array(to_page(page)))
    except UnreadableSamplesError as error:
        raise PageImageError(str(error)) from error


def smart_resize(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """(height, width) in multiples of 32 px, with an area within the checkpoint's limits and a similar aspect ratio.

    Raises: PageImageError if one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise PageImageError(
            f"The page is {width} x {height} px; one side may be at most {MAX_ASPECT_RATIO} times the other. "
            "Cut it into several pages."
        )
    unit = config.grid_unit
    grid_height, grid_width = round(height / unit) * unit, round(width / unit) * unit
    if grid_height * grid_width > config.max_pixels:
        shrink = math.sqrt(height * width / config.max_pixels)
        grid_height = max(unit, math.floor(height / shrink / unit) * unit)
        grid_width = max(unit, math.floor(width / shrink / unit) * unit)
    elif grid_height * grid_width < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (height * width))
        grid_height = math.ceil(height * grow / unit) * unit
        grid_width = math.ceil(width * grow / unit) * unit
    return grid_height, grid_width


def to_patches(pixels: torch.Tensor, config: ImageConfig, dtype: torch.dtype) -> torch.Tensor:
    """Cut pixels, uint8 (height, width, 3), into patches (P, 1536) in [-1, 1] on the same device.

    Patches are ordered by 2x2 merge block. Each is flattened as (channel, time, 16, 16), with the image repeated in time.
    """
    height, width, channels = pixels.shape
    merge, side = config.merge_size, config.patch_size
    # (block row, row, y, block column, column, x, channel): 2 x 2 patches a block, 16 x 16 pixels a patch
    blocks = pixels.view(height // (merge * side), merge, side, width // (merge * side), merge, side, channels)
    patches = blocks.permute(0, 3, 1, 4, 6, 2, 5)  # (block row, block column, row, column, channel, y, x)
    patches = patches.reshape(-1, channels, 1, side, side)  # (P, channel, 1, y, x)
    normalised = (patches.float() / 127.5 - 1.0).to(dtype)
    return normalised.expand(-1, -1, config.temporal_patch_size, -1, -1).flatten(1)  # (P, channel * time * y * x)
