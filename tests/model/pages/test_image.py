import numpy as np
import pytest
from PIL import Image

from model.pages.image import UnreadableSamplesError, shrink, to_page, to_rgb, upright

ORIENTATION = 0x0112


def grey(image: Image.Image) -> list[int]:
    """The shades of an image's first row."""
    levels: list[int] = np.asarray(to_rgb(image))[0, :, 0].tolist()
    return levels


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBA", "RGBa", "RGBX"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = to_rgb(Image.new(mode, (4, 3)))
    assert (image.mode, image.size) == ("RGB", (4, 3))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_grey_keeps_its_high_bytes(mode: str) -> None:
    samples = np.array([0x10FF, 0x8000, 0xFF01], ">u2" if mode == "I;16B" else "<u2")
    assert grey(Image.frombytes(mode, (3, 1), samples.tobytes())) == [0x10, 0x80, 0xFF]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 1, 1]], np.int32), [0, 1, 1]),  # black and the shade beside it, unlike floats
        (np.array([[0, 32_896, 65_535]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 32_896.0, 65_535.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 0.0, 0.0]], np.float32), [0, 0, 0]),
    ],
)
def test_32_bit_grey_is_scaled_to_the_smallest_usual_white_that_holds_it(
    samples: np.ndarray, expected: list[int]
) -> None:
    assert np.abs(np.array(grey(Image.fromarray(samples))) - expected).max() <= 1


@pytest.mark.parametrize("place", [0, 3, 5])
@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (-np.inf, "NaN or infinite"),
        (-0.5, "from -0.5 to 0.25; they must lie between 0 and 4294967295"),
        (1e10, r"from 0.25 to 1e\+10; they must lie between 0 and 4294967295"),
    ],
)
def test_floats_without_a_scale_are_refused_wherever_they_are(sample: float, reason: str, place: int) -> None:
    samples = np.full((2, 3), 0.25, np.float32)
    samples.flat[place] = sample
    with pytest.raises(UnreadableSamplesError, match=reason):
        to_rgb(Image.fromarray(samples))


def test_a_single_sample_that_is_no_number_is_refused() -> None:
    with pytest.raises(UnreadableSamplesError, match="NaN"):
        to_rgb(Image.fromarray(np.full((1, 1), np.nan, np.float32)))


def test_negative_integers_are_refused() -> None:
    with pytest.raises(UnreadableSamplesError, match="from -3 to 9"):
        to_rgb(Image.fromarray(np.array([[-3, 9]], np.int32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode: str) -> None:
    assert np.asarray(to_rgb(Image.new(mode, (2, 2), 0))).min() == 255


def test_a_transparent_palette_colour_lies_on_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    assert np.asarray(to_rgb(image))[0].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 1024), (1024, 1024)),
        ((500, 300), (500, 300)),
        ((2048, 1000), (1024, 500)),
        ((1122, 800), (1023, 730)),  # int(1122 * (1024 / 1122)) is 1023, as in training
        ((20_000, 100), (1024, 5)),
        ((3, 2_000), (1, 1024)),
    ],
)
def test_longest_edge_is_shrunk_and_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrink(Image.new("L", size)).size == expected


def test_an_image_is_turned_as_its_exif_says() -> None:
    photo = Image.new("RGB", (60, 40))
    photo.getexif()[ORIENTATION] = 6
    assert upright(photo).size == (40, 60)


@pytest.mark.parametrize("orientation", [1, 0, 9, "6", None, b"\xff"])
def test_an_orientation_that_turns_nothing_leaves_the_image(orientation: object) -> None:
    photo = Image.new("RGB", (60, 40))
    photo.getexif()[ORIENTATION] = orientation
    assert upright(photo).size == (60, 40)


def test_a_page_is_not_copied() -> None:
    page = Image.new("RGB", (60, 40))
    assert to_page(page) is page


def test_a_large_photo_with_16_bits_is_turned_scaled_and_shrunk() -> None:
    photo = Image.new("I;16", (2048, 512), 0xFFFF)
    photo.getexif()[ORIENTATION] = 8
    page = to_page(photo)
    assert (page.mode, page.size, page.getextrema()) == ("RGB", (256, 1024), ((255, 255),) * 3)


def test_grey_that_was_multiplied_by_its_transparency_is_laid_over_white() -> None:
    image = Image.new("LA", (2, 2), (0, 128)).convert("La")
    assert to_rgb(image).getpixel((0, 0)) == (127, 127, 127)
