"""Turns PNG, JPEG, WebP, TIFF, GIF and BMP bytes into RGB pixels with Pillow, inside the worker process.

Decodes in full before shrinking, because JPEG draft mode and `thumbnail` give other pixels than the ones the checkpoint was
trained on.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import Image, TiffImagePlugin, WebPImagePlugin

from model.pages.image import to_page
from service.raster.page import MAX_FRAMES, PagePixels, RasterFailure, require_sane_box

# Pillow's own list has more than 40 parsers, some of which start other programs. MPO arrives through JPEG.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)  # not among the ones that Image.preinit imports
_BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)


class ImageDocument:
    """One image file. Each `render` decodes its frame again, so that an open document costs only its bytes."""

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
            page = to_page(image)
        return PagePixels(width=page.width, height=page.height, data=page.tobytes(), degraded_reasons=())

    def close(self) -> None:
        self._data = b""

    @contextmanager
    def _reading(self) -> Iterator[Image.Image]:
        """The image at its first frame. An error in the `with` block leaves it as a RasterFailure."""
        try:
            with (
                _refusing_bombs(self._max_pixels),
                Image.open(io.BytesIO(self._data), formats=_FORMATS) as image,
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
