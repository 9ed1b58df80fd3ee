"""Turns any image into a page: upright, RGB over white, longest edge at most 1024 pixels.

The library, the raster workers and training all use this module, so they get the same pixels for the same image. It depends
on Pillow alone, because importing numpy would double the start time of a raster worker.
"""

import math
from contextlib import suppress
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, ImageOps

from model.pages.colour import transform_to_srgb

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

LONGEST_PAGE_EDGE = 1024
"""In pixels. Larger pages are shrunk to it before all other steps (published preprocessing)."""

MAX_ASPECT_RATIO = 200
"""The longer side of a page divided by the shorter one; the published preprocessing refuses a larger ratio."""

WHITE = (255, 255, 255)

_MODES_OF_COLOURS = {
    "RGB": "RGB", "RGBA": "RGB", "P": "RGB", "PA": "RGB", "CMYK": "CMYK", "LAB": "LAB",
    "L": "L", "LA": "L", "I;16": "L", "I;16B": "L", "I;16L": "L",
}  # fmt: skip
"""For each mode, the one in which its colours are converted. The others have no colours, or too many meanings."""

_NOT_TURNED = 1  # the EXIF orientation of an image that is stored upright
_USUAL_WHITES = {"I": (255, 65_535, 4_294_967_295), "F": (1, 255, 65_535, 4_294_967_295)}
"""For each mode of 32-bit grey, the sample values that programs use for white."""


class UnreadableSamplesError(ValueError):
    """32-bit grey samples out of range: negative, NaN, infinite, or above 2^32 - 1."""


def to_page(image: Image.Image, *, longest_edge: int = LONGEST_PAGE_EDGE) -> Image.Image:
    """The image upright, in sRGB over white, longest edge at most `longest_edge`. Returns `image` itself if no step is needed.

    longest_edge: in pixels; another than 1024 is for people, not for the model.
    Raises: UnreadableSamplesError.
    """
    image = upright(image)
    mode = _MODES_OF_COLOURS.get(image.mode)
    transform = None if mode is None else transform_to_srgb(image, mode)
    if mode is None or transform is None:
        return shrink(to_rgb(image), longest_edge)
    return _converted(image, mode, transform, longest_edge)


def _converted(image: Image.Image, mode: str, transform: "ImageCmsTransform", longest_edge: int) -> Image.Image:
    """The image in sRGB over white, shrunk. Shrinks first, because lcms takes seconds for the CMYK of a large scan."""
    if image.mode.startswith("I;16"):
        image = _high_bytes(image)
    alpha = None
    if image.has_transparency_data:
        image = shrink(image.convert("LA" if mode == "L" else "RGBA"), longest_edge)
        alpha = image.getchannel("A")
        image = image.convert(mode)
    else:
        image = shrink(image if image.mode == mode else image.convert(mode), longest_edge)
    colours = transform.apply(image)
    page = Image.new("RGB", colours.size, WHITE)
    page.paste(colours, mask=alpha)
    return page


def upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation. An image with broken EXIF (photo editors on phones write it) is not turned."""
    with suppress(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError):
        # Check first: `exif_transpose` copies even an image that needs no turning.
        if image.getexif().get(ExifTags.Base.Orientation, _NOT_TURNED) != _NOT_TURNED:
            return ImageOps.exif_transpose(image)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB over white. 16-bit and 32-bit grey is scaled to 8 bits; Pillow's own conversion would clip at 255.

    Raises: UnreadableSamplesError for 32-bit grey that holds NaN, infinity or a negative sample, or one above 2^32 - 1.
    """
    if image.mode.startswith("I;16"):
        image = _high_bytes(image)
    elif image.mode in _USUAL_WHITES:
        image = _scaled_to_bytes(image)
    elif image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow converts it to
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, WHITE)
        page.paste(image, mask=image.getchannel("A"))
        return page
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_bytes(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey."""
    samples = image.tobytes("raw", image.mode)
    return Image.frombytes("L", image.size, samples[(0 if image.mode == "I;16B" else 1) :: 2])


def _scaled_to_bytes(image: Image.Image) -> Image.Image:
    """Scale 32-bit samples to 8 bits. The file does not define white: take the smallest usual value that no sample exceeds."""
    darkest, brightest = image.getextrema()
    assert isinstance(darkest, int | float) and isinstance(brightest, int | float)
    if image.mode == "F" and not _is_finite(image):
        raise UnreadableSamplesError("The page holds grey samples that are NaN or infinite. Convert it to 8-bit grey.")
    white = next((white for white in _USUAL_WHITES[image.mode] if brightest <= white), None)
    if darkest < 0 or white is None:
        raise UnreadableSamplesError(
            f"The page's grey samples reach from {darkest:g} to {brightest:g}; they must lie between 0 and "
            f"{_USUAL_WHITES[image.mode][-1]}. Convert the page to 8-bit grey."
        )
    factor = 255 / white
    return image.point(lambda sample: sample * factor + 0).convert("L")


def _is_finite(image: Image.Image) -> bool:
    """Whether all samples are finite. Checks their mean, which any NaN or infinity spoils; `getextrema` ignores NaN."""
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(mean, int | float)
    return math.isfinite(mean)


def shrink(image: Image.Image, longest_edge: int = LONGEST_PAGE_EDGE) -> Image.Image:
    """The image with its longest edge at most `longest_edge`, resized by Lanczos; a smaller image is returned unchanged.

    Both sides are rounded down to whole pixels, so the longest edge may be 1023, as in the pages of the published training.
    """
    longest = max(image.size)
    if longest <= longest_edge:
        return image
    scale = longest_edge / longest
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
