"""A document sent to the service and the same image handed to the library must become the same page."""

import io

import numpy as np
import pytest
from PIL import Image

from model import PageImageError
from model.image_processor import to_page_image
from service.raster.image_decoder import ImageDocument
from service.raster.page import RasterFailure

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
WIDE_GREY = {
    "I, white is 255": (np.int32, 255),
    "I, white is 65,535": (np.int32, 65_535),
    "I, white is 2,147,483,647": (np.int32, 2**31 - 1),
    "F, white is 1": (np.float32, 1),
    "F, white is 255": (np.float32, 255),
    "F, white is 65,535": (np.float32, 65_535),
}
KINDS = ["RGB", "L", "1", "P", "P with transparency", "RGBA", "LA", "CMYK", "I;16", "I;16B", *WIDE_GREY]


def make_file(kind: str, size: tuple[int, int]) -> bytes:
    """Noise in an image of that mode, as TIFF where PNG lacks the mode."""
    image = noise(kind, size)
    transparency = {"transparency": bytes(range(256))} if kind == "P with transparency" else {}
    stream = io.BytesIO()
    image.save(stream, "PNG" if image.mode in ("RGB", "L", "1", "P", "RGBA", "LA", "I;16") else "TIFF", **transparency)
    return stream.getvalue()


def noise(kind: str, size: tuple[int, int]) -> Image.Image:
    generator = np.random.default_rng(3)
    if kind in WIDE_GREY:
        dtype, white = WIDE_GREY[kind]
        return Image.fromarray((generator.random(size[::-1]) * white).astype(dtype))
    if kind.startswith("I;16"):
        return Image.frombytes(kind, size, generator.bytes(2 * size[0] * size[1]))
    channels = CHANNELS.get(kind, 3)
    pixels = generator.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    if kind in CHANNELS:
        return Image.frombytes(kind, size, pixels.tobytes())
    return Image.fromarray(pixels, "RGB").convert(kind[0])


def decode(data: bytes) -> np.ndarray:
    page = ImageDocument(data, max_pixels=10**8, max_edge=20_000).render(1)
    return np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)


@pytest.mark.parametrize("size", [(320, 448), (1122, 1700), (1500, 300)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_decoded_file_is_the_page_that_the_library_makes_of_it(kind: str, size: tuple[int, int]) -> None:
    data = make_file(kind, size)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == kind.partition(",")[0].partition(" ")[0]
        assert np.array_equal(decode(data), to_page_image(image).pixels)


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf, -1.0, 1e12])
@pytest.mark.parametrize("place", [0, 5])
def test_samples_without_a_scale_are_refused_by_both(sample: float, place: int) -> None:
    samples = np.full((3, 4), 0.5, np.float32)
    samples.flat[place] = sample
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "TIFF")
    with pytest.raises(RasterFailure, match="corrupt_image"):
        decode(stream.getvalue())
    with pytest.raises(PageImageError, match="samples"), Image.open(stream) as image:
        to_page_image(image)
