"""Turns PNG, JPEG, WebP, TIFF, GIF and BMP bytes into RGB pixels with Pillow, inside the worker process.

Decodes in full before shrinking, because JPEG draft mode and `thumbnail` give other pixels than the ones the checkpoint was
trained on.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from PIL import Image, TiffImagePlugin, WebPImagePlugin

from model.pages.image import LONGEST_PAGE_EDGE, to_page
from service.degraded_reason import DegradedReason
from service.raster import cut_off_jpeg, damaged_png
from service.raster.page import PagePixels, RasterFailure, require_sane_box
from service.raster.tiff_directories import page_directories

T = TypeVar("T")

# Pillow's own list has more than 40 parsers, some of which start other programs. MPO arrives through JPEG.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)  # not among the ones that Image.preinit imports
_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEGS = ("JPEG", "MPO")
_WHITE_IS_ZERO = 0
_NEGATIVE = bytes(range(255, -1, -1))
_BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)


class ImageDocument:
    """One image file. Each `render` decodes its frame again, so that an open document costs only its bytes."""

    def __init__(self, data: bytes, *, max_pixels: int, max_edge: int) -> None:
        """Raises: RasterFailure, codes corrupt_image, image_too_many_pixels, bad_page_box, too_many_pages."""
        self._data = data
        self._max_pixels = max_pixels
        self._max_edge = max_edge
        self._is_mended = False
        self._lacks_pixels = False
        is_tiff = self._read(lambda image: image.format == "TIFF")
        self._frames = page_directories(data) if is_tiff else [0]
        self.page_count = len(self._frames)
        self.is_paged = self.page_count > 1

    def render(self, number: int, *, longest_edge: int = LONGEST_PAGE_EDGE) -> PagePixels:
        """Page `number` (1-based), upright, in sRGB over white, its longest edge at most so many pixels.

        The page is degraded if at least half of a JPEG or PNG picture is there, but not all of it.

        Raises: RasterFailure, codes corrupt_image, image_too_many_pixels, bad_page_box, page_memory.
        """
        page = self._read(lambda image: self._page(image, self._frames[number - 1], longest_edge))
        reasons = (DegradedReason.IMAGE,) if self._lacks_pixels else ()
        return PagePixels(width=page.width, height=page.height, data=page.tobytes(), degraded_reasons=reasons)

    def _page(self, image: Image.Image, frame: int, longest_edge: int) -> Image.Image:
        if frame > 0:
            image.seek(frame)
            self._require_decodable(image)
        image.load()
        if not self._is_mended and self._may_lack_pixels(image):
            raise RasterFailure("corrupt_image")  # perhaps: mending tells
        return to_page(_black_on_white(image), longest_edge=longest_edge)

    def _may_lack_pixels(self, image: Image.Image) -> bool:
        if image.format in _JPEGS:
            return cut_off_jpeg.may_lack_pixels(image, self._data)
        return image.format == "PNG" and damaged_png.may_lack_pixels(image)

    def _read(self, use: Callable[[Image.Image], T]) -> T:
        """What `use` makes of the image; of a mended one if it cannot be used as it is."""
        try:
            with self._reading() as image:
                return use(image)
        except RasterFailure as failure:
            if failure.code != "corrupt_image" or self._is_mended or not self._mend():
                raise
        with self._reading() as image:
            return use(image)

    def _mend(self) -> bool:
        """Put a damaged JPEG or PNG file right, as far as its picture is there."""
        mended: damaged_png.Rebuilt | cut_off_jpeg.Ended | None = None
        if self._data.startswith(damaged_png.SIGNATURE):
            mended = damaged_png.rebuilt(self._data, max_pixels=self._max_pixels)
        elif self._data.startswith(_JPEG_MAGIC):
            mended = cut_off_jpeg.ended(self._data, decode=self._decoded)
        if mended is None:
            return False
        self._is_mended = True
        self._data = mended.data
        self._lacks_pixels = mended.lacks_pixels
        return True

    def _decoded(self, data: bytes) -> Image.Image:
        with self._reading(data) as image:
            image.load()
            return image

    def close(self) -> None:
        self._data = b""

    @contextmanager
    def _reading(self, data: bytes | None = None) -> Iterator[Image.Image]:
        """The image in `data`, or in the document, at its first frame.

        An error in the `with` block leaves it as a RasterFailure.
        """
        try:
            with (
                _refusing_bombs(self._max_pixels),
                Image.open(io.BytesIO(self._data if data is None else data), formats=_FORMATS) as image,
            ):
                self._require_decodable(image)
                yield image
        except RasterFailure:
            raise
        except _BOMBS as error:
            raise RasterFailure("image_too_many_pixels") from error
        except MemoryError as error:
            raise RasterFailure("page_memory") from error
        except Exception as error:
            raise RasterFailure("corrupt_image") from error

    def _require_decodable(self, image: Image.Image) -> None:
        if image.width * image.height > self._max_pixels or max(image.size) > self._max_edge:
            raise RasterFailure("image_too_many_pixels", width=image.width, height=image.height)
        require_sane_box(image.width, image.height)


@contextmanager
def _refusing_bombs(max_pixels: int) -> Iterator[None]:
    """Make Pillow raise for every image above the limit; by default it only warns up to twice the limit."""
    previous = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = previous


def _black_on_white(image: Image.Image) -> Image.Image:
    """The image itself, or the negative of a TIFF image with 16-bit grey in which 0 is white: Pillow inverts up to 8 bits."""
    if image.mode != "I;16" or not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image
    if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) != _WHITE_IS_ZERO:
        return image
    return Image.frombytes(image.mode, image.size, image.tobytes().translate(_NEGATIVE))
