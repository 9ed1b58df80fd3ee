import io

import numpy as np
import pytest
from PIL import Image

from service.raster.image_decoder import ImageDocument
from service.raster.page import PagePixels, RasterFailure
from tests.documents import encode, make_image, make_png_header, make_tiff

EXIF_ORIENTATION = 0x0112
PHOTOMETRIC = 262


def decode(data: bytes, *, number: int = 1, max_pixels: int = 40_000_000, max_edge: int = 20_000) -> np.ndarray:
    page = ImageDocument(data, max_pixels=max_pixels, max_edge=max_edge).render(number)
    return pixels(page)


def pixels(page: PagePixels) -> np.ndarray:
    return np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)


def failure_of(data: bytes, **limits: int) -> RasterFailure:
    with pytest.raises(RasterFailure) as caught:
        decode(data, **limits)
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_every_format_is_decoded(format: str) -> None:
    image = decode(make_image(40, 30, format=format, colour="red"))
    assert image.shape == (30, 40, 3)
    assert np.abs(image.astype(int) - (255, 0, 0)).max() <= 3  # JPEG and WebP round


@pytest.mark.parametrize("format", ["PPM", "TGA", "PCX", "JPEG2000", "ICO"])
def test_formats_outside_the_list_are_not_parsed(format: str) -> None:
    assert failure_of(make_image(32, 32, format=format)).code == "corrupt_image"


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_shifted_and_not_white(format: str) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = decode(encode(Image.fromarray(ramp), format))
    assert image[..., 0].tolist() == (ramp >> 8).tolist()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 32_896, 65_535]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 127, 255]),
    ],
)
def test_32_bit_grey_is_scaled_to_the_range_that_holds_its_brightest_sample(
    samples: np.ndarray, expected: list[int]
) -> None:
    grey = decode(encode(Image.fromarray(samples), "TIFF"))[0, :, 0]
    assert np.abs(grey.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("sample", [np.nan, np.inf, -1.0])
def test_32_bit_grey_without_a_scale_is_corrupt(sample: float) -> None:
    data = encode(Image.fromarray(np.array([[0.0, sample]], np.float32)), "TIFF")
    assert failure_of(data).code == "corrupt_image"


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    assert decode(encode(image, "PNG"))[0].tolist() == [[255, 255, 255], [255, 127, 127]]


def test_transparent_palette_colour_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert decode(encode(image, "PNG", transparency=0))[0].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_cmyk_is_converted() -> None:
    image = decode(encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "TIFF"))
    assert image[0, 0, 0] < 50 and image[0, 0, 2] > 150


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(format: str) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 20, 20))  # the left half is at the top once the page is turned clockwise
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    turned = decode(encode(image, format, exif=exif))
    assert turned.shape == (40, 20, 3)
    assert turned[5].mean() < 20 and turned[35].mean() > 235


def test_broken_exif_does_not_cost_the_page() -> None:
    assert decode(encode(Image.new("RGB", (40, 20)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).shape == (
        20,
        40,
        3,
    )


def test_header_of_a_bomb_is_refused_before_decoding() -> None:
    assert failure_of(make_png_header(100_000, 100_000)).code == "image_too_many_pixels"
    assert failure_of(make_png_header(7_000, 6_000)).code == "image_too_many_pixels"  # Pillow would only warn


def test_too_long_edge_is_refused_with_its_size() -> None:
    failure = failure_of(make_png_header(21_000, 500))
    assert (failure.code, failure.width, failure.height) == ("image_too_many_pixels", 21_000, 500)


def test_later_frame_of_a_tiff_is_bounded_too() -> None:
    document = ImageDocument(make_tiff([(10, 10), (200, 200)]), max_pixels=10_000, max_edge=20_000)
    with pytest.raises(RasterFailure, match="image_too_many_pixels"):
        document.render(2)


def test_sliver_is_a_bad_page_box() -> None:
    failure = failure_of(make_image(201, 1))
    assert (failure.code, failure.width, failure.height) == ("bad_page_box", 201, 1)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_cut_off_file_is_corrupt(format: str) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    data = encode(noise, format)
    assert failure_of(data[: len(data) // 3]).code == "corrupt_image"


@pytest.mark.parametrize("format", ["WEBP", "TIFF", "GIF", "BMP"])
def test_other_formats_than_jpeg_and_png_are_corrupt_without_their_end(format: str) -> None:
    data = encode(Image.effect_noise((64, 64), 90).convert("RGB"), format)
    assert failure_of(data[: len(data) * 9 // 10]).code == "corrupt_image"


def test_16_bit_grey_whose_zero_is_white_is_inverted() -> None:
    samples = np.array([[0, 0xFFFF, 0x4000]], np.uint16)
    image = decode(encode(Image.fromarray(samples), "TIFF", tiffinfo={PHOTOMETRIC: 0}))
    assert image[0, :, 0].tolist() == [255, 0, 0xBF]


@pytest.mark.parametrize("compression", ["raw", "group4"])
def test_bilevel_image_whose_zero_is_white(compression: str) -> None:
    page = Image.new("1", (64, 64), 255)
    page.paste(0, (0, 0, 64, 16))
    image = decode(encode(page, "TIFF", compression=compression, tiffinfo={PHOTOMETRIC: 0}))
    assert (image[:16] == 0).all() and (image[16:] == 255).all()


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM"]
)
def test_garbage_is_corrupt(data: bytes) -> None:
    assert failure_of(data).code == "corrupt_image"


def test_frames_of_a_tiff_are_pages() -> None:
    document = ImageDocument(make_tiff([(10, 20), (30, 20), (20, 20)]), max_pixels=10_000, max_edge=100)
    assert (document.page_count, document.is_paged) == (3, True)
    assert [pixels(document.render(number))[0, 0, 0] for number in (3, 1, 2)] == [30, 10, 20]
    assert document.render(2).width == 30


def test_tiff_with_too_many_frames_is_refused() -> None:
    assert failure_of(make_tiff([(1, 1)] * 1_001)).code == "too_many_pages"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animation_is_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    document = ImageDocument(data, max_pixels=10_000, max_edge=100)
    assert (document.page_count, document.is_paged) == (1, False)
    assert pixels(document.render(1))[0, 0, 0] > 240


def test_shrinking_is_lanczos_on_the_decoded_image() -> None:
    noise = Image.effect_noise((1500, 1200), 90).convert("RGB")
    data = encode(noise, "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        expected = image.resize((1024, int(1200 * (1024 / 1500))), Image.Resampling.LANCZOS)
    assert np.array_equal(decode(data), np.asarray(expected))


def test_library_globals_are_left_as_they_were() -> None:
    before = Image.MAX_IMAGE_PIXELS
    failure_of(b"no image", max_pixels=5)
    assert before == Image.MAX_IMAGE_PIXELS
