"""Turns PNG, JPEG, WebP, TIFF, GIF and BMP bytes into RGB pixels with Pillow, inside the worker process.

Knows nothing of sockets or requests. Decodes in full before shrinking, because JPEG draft mode and `thumbnail` give
other pixels than the ones the checkpoint was trained on.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, WebPImagePlugin

from service.raster.page import LONGEST_EDGE, MAX_FRAMES, PagePixels, RasterFailure, require_sane_box

# Pillow's own list has more than 40 parsers, some of which start other programs. MPO arrives through JPEG.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)  # not among the ones that Image.preinit imports
_BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
_AS_STORED = 1  # EXIF's orientation of an image that need not be turned
_WIDE_GREY_MODES = ("I", "F")
_FULL_SCALES = (1.0, 255.0, 65_535.0, 4_294_967_295.0)


class ImageDocument:
    """One image file. Its frames are decoded anew for each `render`, so that an open document costs only its bytes."""

    def __init__(self, data: bytes, *, max_pixels: int, max_edge: int) -> None:
        """Raises: RasterFailure, codes corrupt_image, image_too_many_pixels, bad_page_box, too_many_pages."""
        self._data = data
        self._max_pixels = max_pixels
        self._max_edge = max_edge
        with self._reading() as image:
            self.page_count = _count_frames(image) if image.format == "TIFF" else 1
        self.is_paged = self.page_count > 1

    def render(self, number: int) -> PagePixels:
        """Frame `number` (1-based), upright, over white, its longest edge at most 1024 pixels.

        Raises: RasterFailure, codes corrupt_image, image_too_many_pixels, bad_page_box, page_memory.
        """
        with self._reading() as image:
            if number > 1:
                image.seek(number - 1)
                self._require_decodable(image)
            image.load()
            page = shrink_to_longest_edge(to_rgb(_upright(image)))
        return PagePixels(width=page.width, height=page.height, data=page.tobytes(), degraded=False)

    def close(self) -> None:
        self._data = b""

    @contextmanager
    def _reading(self) -> Iterator[Image.Image]:
        with (
            _failing_as_corrupt(),
            _refusing_bombs(self._max_pixels),
            Image.open(io.BytesIO(self._data), formats=_FORMATS) as image,
        ):
            self._require_decodable(image)
            yield image

    def _require_decodable(self, image: Image.Image) -> None:
        if image.width * image.height > self._max_pixels or max(image.size) > self._max_edge:
            raise RasterFailure("image_too_many_pixels", width=image.width, height=image.height)
        require_sane_box(image.width, image.height)


@contextmanager
def _failing_as_corrupt() -> Iterator[None]:
    try:
        yield
    except RasterFailure:
        raise
    except _BOMBS as error:
        raise RasterFailure("image_too_many_pixels") from error
    except MemoryError as error:
        raise RasterFailure("page_memory") from error
    except Exception as error:
        raise RasterFailure("corrupt_image") from error


@contextmanager
def _refusing_bombs(max_pixels: int) -> Iterator[None]:
    """By default Pillow only warns up to twice its limit."""
    previous = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = previous


def _count_frames(image: Image.Image) -> int:
    """Bounded, unlike `n_frames`: a chain of a million directories fits into 20 MB."""
    frames = 1
    with suppress(EOFError):
        while frames <= MAX_FRAMES:
            image.seek(frames)
            frames += 1
    if frames > MAX_FRAMES:
        raise RasterFailure("too_many_pages")
    return frames


def _upright(image: Image.Image) -> Image.Image:
    # Broken EXIF beside good pixels is common after editing on a phone: such a page stays as it is stored.
    with suppress(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError):
        if image.getexif().get(ExifTags.Base.Orientation, _AS_STORED) != _AS_STORED:  # the rest would be copied
            return ImageOps.exif_transpose(image)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB over white, 16-bit and 32-bit grey scaled: Pillow's own conversion clips those to uniformly white pages."""
    if image.mode.startswith("I;16"):
        image = _high_bytes(image)
    elif image.mode in _WIDE_GREY_MODES:
        image = _scaled_to_bytes(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_bytes(image: Image.Image) -> Image.Image:
    """16-bit grey >> 8, without numpy, whose import would double the worker's start-up time."""
    samples = image.tobytes("raw", image.mode)
    return Image.frombytes("L", image.size, samples[(0 if image.mode == "I;16B" else 1) :: 2])


def _scaled_to_bytes(image: Image.Image) -> Image.Image:
    """32-bit samples do not say what white is: the smallest usual full scale that holds the brightest one."""
    _, brightest = image.getextrema()
    assert isinstance(brightest, int | float)
    full_scale = next((scale for scale in _FULL_SCALES if _is_within(brightest, scale, mode=image.mode)), None)
    if full_scale is None:
        raise RasterFailure("corrupt_image")
    factor = 255 / full_scale
    return image.point(lambda sample: sample * factor + 0).convert("L")


def _is_within(brightest: float, scale: float, *, mode: str) -> bool:
    return math.isfinite(brightest) and brightest <= scale and not (mode == "I" and scale == 1.0)


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=image.getchannel("A"))
    return page


def shrink_to_longest_edge(image: Image.Image) -> Image.Image:
    """Lanczos to a longest edge of 1024 pixels; smaller images stay as they are. `int` may give 1023: the checkpoint's
    authors do the same."""
    longest = max(image.size)
    if longest <= LONGEST_EDGE:
        return image
    scale = LONGEST_EDGE / longest
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
