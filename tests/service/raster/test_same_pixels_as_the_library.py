"""The worker's decoder repeats what `model.image_processor` does for callers of the library; both must give the same page."""

import io

import numpy as np
import pytest
from PIL import Image

from model.image_processor import to_page_image
from service.raster.image_decoder import ImageDocument


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    generator = np.random.default_rng(3)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 65536, size[::-1], dtype=np.uint16))
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 3)
    pixels = generator.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    if mode in ("1", "P"):
        return Image.fromarray(pixels, "RGB").convert(mode)
    return Image.frombytes(mode, size, pixels.tobytes())


@pytest.mark.parametrize("size", [(320, 448), (1122, 1700), (1500, 300)], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_a_decoded_file_is_the_page_that_the_library_makes_of_it(mode: str, size: tuple[int, int]) -> None:
    stream = io.BytesIO()
    picture(mode, size).save(stream, "TIFF" if mode == "CMYK" else "PNG")
    page = ImageDocument(stream.getvalue(), max_pixels=10**8, max_edge=20_000).render(1)
    decoded = np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)
    expected = to_page_image(Image.open(stream)).pixels
    assert decoded.shape == expected.shape
    difference = np.abs(decoded.astype(int) - expected.astype(int))
    # Pillow blends transparency by two formulas that round differently; everything else is the same operation.
    assert difference.max() <= (1 if mode in ("RGBA", "LA") else 0)
