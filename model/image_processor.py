"""Page images to the model's patches: RGB and size on the CPU, numbers and patches on the device.

The page crosses to the device as uint8, a quarter of the bytes of float32 patches. Knows nothing of PDFs or files.
Source: the published preprocessing, i.e. Qwen2-VL's "smart resize" (transformers `Qwen2VLImageProcessor`).
"""

import hashlib
import math
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from model.config import LONGEST_PAGE_EDGE, ImageConfig
from model.dataflow import PageImage, PreparedPage
from model.errors import PageImageError

MAX_ASPECT_RATIO = 200
WHITE = (255, 255, 255)


def prepare_page(
    page: Image.Image | np.ndarray | PageImage, config: ImageConfig, *, scope: bytes = b""
) -> PreparedPage:
    """A page of any size as uint8 pixels on the model's grid. `scope` keeps equal pages of different callers apart.

    Raises: PageImageError for an array that is not uint8 (height, width, 3), an empty image, or one side over 200 times
    the other.
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
        content_hash=_content_hash(pixels, scope),
    )


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic with torch's kernel for uint8, the one behind the published numbers: Pillow's differs by one level in some
    values, and takes more than twice the time. The image keeps its memory order, so nothing is copied on either side."""
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(image, (height, width), mode="bicubic", align_corners=False, antialias=True)
    out: np.ndarray = resized.permute(0, 2, 3, 1)[0].numpy()
    return out


def _content_hash(pixels: np.ndarray, scope: bytes) -> bytes:
    digest = hashlib.sha256(f"{len(scope)} {pixels.shape} ".encode() + scope)
    digest.update(pixels.data)  # lets other threads run meanwhile
    return digest.digest()


def to_page_image(page: Image.Image | np.ndarray) -> PageImage:
    """RGB, the longest edge brought to at most 1024 px (Lanczos, both sides cut to whole pixels).

    Raises: PageImageError.
    """
    if isinstance(page, np.ndarray):
        page = _image_of_array(page)
    if min(page.size) < 1:
        raise PageImageError(f"The page is {page.width} x {page.height} px; both sides must be at least 1 px.")
    return PageImage(pixels=np.array(_shrink(_to_rgb(_upright(page)))))


def _image_of_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise PageImageError(
            f"A page array must be uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}. "
            "Convert it, or hand in a PIL image."
        )
    return Image.fromarray(pixels)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. With broken EXIF a page stays as it is stored."""
    with suppress(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError):
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip nearly all of it to white
        image = Image.fromarray((np.asarray(image).clip(0, 0xFFFF).astype(np.uint16) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (*WHITE, 255))
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")


def _shrink(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    if longest <= LONGEST_PAGE_EDGE:
        return image
    scale = LONGEST_PAGE_EDGE / longest
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def smart_resize(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """(height, width) in multiples of 32 px with an area within the checkpoint's limits, close to the aspect ratio.

    Raises: PageImageError where one side is more than 200 times the other.
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
    """uint8 (height, width, 3) to (patches, 1536) in [-1, 1], on the tensor's device.

    Patches are ordered by 2x2 merge block; each is flattened as (channel, time, 16, 16), the still image repeated in time.
    """
    height, width, channels = pixels.shape
    merge, side = config.merge_size, config.patch_size
    blocks = pixels.view(height // (merge * side), merge, side, width // (merge * side), merge, side, channels)
    patches = blocks.permute(0, 3, 1, 4, 6, 2, 5)  # (block row, block column, row, column, channel, 16, 16)
    patches = patches.reshape(-1, channels, 1, side, side)
    normalised = (patches.float() / 127.5 - 1.0).to(dtype)
    return normalised.expand(-1, -1, config.temporal_patch_size, -1, -1).flatten(1)
