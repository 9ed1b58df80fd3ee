import numpy as np
import pytest
import torch
from PIL import Image

from model import PageImage, PageImageError
from model.config import ImageConfig
from model.image_processor import prepare_page, smart_resize, to_page_image, to_patches

CONFIG = ImageConfig(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=65536, max_pixels=16777216)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 724), (1024, 736)),  # A4
        ((448, 320), (448, 320)),
        ((80, 100), (256, 288)),  # below the least area: grown
        ((48, 1024), (64, 1024)),  # 48 / 32 = 1.5 rounds to the even 2
        ((80, 1024), (64, 1024)),  # 80 / 32 = 2.5 rounds to the even 2
        ((5, 1000), (32, 3648)),
    ],
)
def test_smart_resize(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert smart_resize(*size, CONFIG) == expected


def test_pages_above_the_greatest_area_shrink() -> None:
    small = ImageConfig(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=1024, max_pixels=65536)
    height, width = smart_resize(1024, 724, small)
    assert height * width <= 65536 and height % 32 == width % 32 == 0


def test_an_elongated_page_is_refused_with_the_limit() -> None:
    with pytest.raises(PageImageError, match=r"1000 x 4 px.*200"):
        prepare_page(np.zeros((4, 1000, 3), dtype=np.uint8), CONFIG)


@pytest.mark.parametrize(("size", "expected"), [((1122, 2000), (574, 1024)), ((3000, 1000), (1024, 341))])
def test_the_longest_edge_is_brought_to_1024_and_the_other_cut_to_whole_pixels(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert to_page_image(Image.new("RGB", size)).pixels.shape[:2] == expected[::-1]


def test_a_longest_edge_may_come_out_one_pixel_short_as_published() -> None:
    assert int(1122 * (1024 / 1122)) == 1023
    assert max(to_page_image(Image.new("RGB", (1122, 700))).pixels.shape) == 1023


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["grey", "rgba", "float", "empty"],
)
def test_an_array_that_is_no_rgb_page_is_refused(array: np.ndarray) -> None:
    with pytest.raises(PageImageError, match="uint8"):
        prepare_page(array, CONFIG)


def test_transparency_lies_on_white() -> None:
    pixels = to_page_image(Image.new("RGBA", (4, 4), (0, 0, 0, 0))).pixels
    assert (pixels == 255).all()


def test_a_photo_is_turned_upright() -> None:
    photo = Image.new("RGB", (60, 40))
    photo.getexif()[0x0112] = 6  # the camera was held upright
    assert to_page_image(photo).pixels.shape == (60, 40, 3)


def test_16_bit_grey_keeps_its_shades() -> None:
    shades = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = to_page_image(Image.fromarray(shades)).pixels
    assert pixels.min() == 0 and pixels.max() == 255 and len(np.unique(pixels)) == 256


@pytest.mark.parametrize(
    "samples",
    [
        np.array([[0, 128, 255]], np.int32),
        np.array([[0, 32_896, 65_535]], np.int32),
        np.array([[0, 0.504, 1]], np.float32),
    ],
    ids=["integers to 255", "integers to 65,535", "floats to 1"],
)
def test_32_bit_grey_is_no_black_page(samples: np.ndarray) -> None:
    assert to_page_image(Image.fromarray(samples)).pixels[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("sample", [np.nan, np.inf, -1.0])
def test_grey_samples_without_a_scale_are_refused_with_the_remedy(sample: float) -> None:
    page = Image.fromarray(np.array([[0.5, sample]], np.float32))
    with pytest.raises(PageImageError, match=r"samples.*Convert (it|the page) to 8-bit grey"):
        prepare_page(page, CONFIG)


def test_the_page_does_not_share_the_callers_pixels() -> None:
    image = Image.new("RGB", (40, 40), "white")
    page = to_page_image(image)
    image.paste("black", (0, 0, 40, 40))
    assert page.pixels.min() == 255 and page.pixels.flags.writeable


def test_pages_in_different_wrappings_are_the_same_page() -> None:
    array = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    wrapped = [prepare_page(page, CONFIG).pixels for page in (array, Image.fromarray(array), PageImage(pixels=array))]
    assert np.array_equal(wrapped[0], wrapped[1]) and np.array_equal(wrapped[0], wrapped[2])


def test_patches_are_in_merge_block_order_and_normalised() -> None:
    pixels = torch.zeros(64, 64, 3, dtype=torch.uint8)
    for index in range(16):  # patch (row, column) holds the value 10 * (4 row + column)
        row, column = divmod(index, 4)
        pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 10 * index
    patches = to_patches(pixels, CONFIG, torch.float32)
    assert patches.shape == (16, 1536)
    values = ((patches[:, 0] + 1) * 127.5 / 10).round().int().tolist()
    assert values == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert (patches == patches[:, :1]).all()


def test_a_patch_is_flattened_as_channel_time_row_column() -> None:
    pixels = torch.arange(32 * 32 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(32, 32, 3)
    patch = to_patches(pixels, CONFIG, torch.float32)[0].view(3, 2, 16, 16)
    assert torch.equal(patch[:, 0], patch[:, 1])
    assert torch.equal(patch[:, 0], pixels[:16, :16].permute(2, 0, 1).float() / 127.5 - 1)
