import struct
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from service.raster.image_decoder import ImageDocument
from service.raster.limits import RasterLimits
from service.raster.page import Kind, RasterFailure
from service.raster.tiff_directories import page_directories
from tests.documents import encode, make_tiff
from tests.patience import PATIENCE_SECONDS
from tests.service.raster.processes import started

NEW_SUBFILE_TYPE = 254
SUBFILE_TYPE = 255
SUB_IFDS = 330
REDUCED, PAGE_OF_MANY, MASK = 1, 2, 4


def make_chain(kinds: Sequence[dict[int, int]], *, big: bool = False, order: str = "<") -> bytes:
    """A directory for each entry of `kinds`, of 8 x 8 grey with the value 10 n; written by hand, to have any tag in it."""
    mark, offset, entry = ("+", "Q", "HHQQ") if big else ("*", "I", "HHII")
    magic = ("II" if order == "<" else "MM").encode() + struct.pack(order + "H", ord(mark))
    data = bytearray(magic + (struct.pack(order + "HH", 8, 0) if big else b""))
    link = len(data)
    data += bytes(struct.calcsize(offset))
    for number, more in enumerate(kinds, start=1):
        pixels_at = len(data)
        data += bytes([10 * number % 256]) * 64
        tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: pixels_at, 277: 1, 278: 8, 279: 64, **more}
        struct.pack_into(order + offset, data, link, len(data))
        data += struct.pack(order + ("Q" if big else "H"), len(tags))
        for tag, value in sorted(tags.items()):
            data += struct.pack(order + entry, tag, 16 if big else 4, 1, value)
        link = len(data)
        data += bytes(struct.calcsize(offset))
    return bytes(data)


def shades(data: bytes) -> list[int]:
    document = ImageDocument(data, max_pixels=10_000, max_edge=100)
    assert document.is_paged == (document.page_count > 1)
    return [document.render(number).data[0] for number in range(1, document.page_count + 1)]


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (False, ">"), (True, "<")])  # Pillow reads no BigTIFF of ">"
def test_reduced_copies_and_masks_are_no_pages(big: bool, order: str) -> None:
    kinds = [
        {NEW_SUBFILE_TYPE: REDUCED},
        {NEW_SUBFILE_TYPE: PAGE_OF_MANY},
        {NEW_SUBFILE_TYPE: MASK},
        {},
        {SUBFILE_TYPE: 2},
        {SUBFILE_TYPE: 3},
        {NEW_SUBFILE_TYPE: PAGE_OF_MANY | REDUCED},
        {NEW_SUBFILE_TYPE: MASK | REDUCED},
    ]
    assert shades(make_chain(kinds, big=big, order=order)) == [20, 40, 60]


def test_file_with_one_page_and_its_thumbnail_is_a_single_image() -> None:
    assert shades(make_chain([{}, {NEW_SUBFILE_TYPE: REDUCED}])) == [10]


def test_a_mask_that_pillow_cannot_read_costs_no_page() -> None:
    mask = {NEW_SUBFILE_TYPE: MASK, 262: 4}  # the photometric interpretation of masks
    assert shades(make_chain([{}, mask, {}])) == [10, 30]


def test_directories_that_are_all_marked_as_copies_are_pages() -> None:
    assert shades(make_chain([{NEW_SUBFILE_TYPE: REDUCED}, {NEW_SUBFILE_TYPE: REDUCED}])) == [10, 20]


def test_sub_directories_are_no_pages() -> None:
    data = make_chain([{}, {}])
    with_child = make_chain([{SUB_IFDS: 8 + 64}, {}])
    assert shades(data) == shades(with_child) == [10, 20]


def test_as_many_reduced_copies_as_a_file_can_hold_are_refused() -> None:
    with pytest.raises(RasterFailure, match="too_many_pages"):
        page_directories(make_chain([{}, *([{NEW_SUBFILE_TYPE: REDUCED}] * 1_000)]))


def test_chain_in_a_circle_is_corrupt() -> None:
    data = bytearray(make_chain([{}, {}]))
    (first,) = struct.unpack_from("<I", data, 4)
    data[-4:] = struct.pack("<I", first)
    with pytest.raises(RasterFailure, match="corrupt_image"):
        ImageDocument(bytes(data), max_pixels=10_000, max_edge=100)


@pytest.mark.parametrize("cut", range(1, 130, 7))
def test_chain_that_leaves_the_file_is_corrupt(cut: int) -> None:
    data = make_chain([{}, {}])
    with pytest.raises(RasterFailure, match="corrupt_image"):
        page_directories(data[:-cut])


@pytest.mark.parametrize("byte", [4, 72, 73, 74, 190])
def test_no_byte_of_a_chain_breaks_the_walk(byte: int) -> None:
    data = bytearray(make_tiff([(4, 4), (5, 5)]))
    for value in (0, 1, 127, 255):
        data[byte] = value
        try:
            assert page_directories(bytes(data))
        except RasterFailure as failure:
            assert failure.code == "corrupt_image"


@pytest.mark.parametrize("compression", ["group4", "raw"])
def test_bilevel_a4_scans_at_600_dpi_are_pages_within_the_default_limits(compression: str) -> None:
    pages = [Image.new("1", (4960, 7016), 1) for _ in range(3)]
    for number, page in enumerate(pages, start=1):
        page.paste(0, (0, 0, 4960, 1754 * number))
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression=compression, dpi=(600, 600))
    with started(RasterLimits(processes=1).worker_settings) as process:
        outline = process.open(1, data, kind=Kind.IMAGE, seconds=PATIENCE_SECONDS)
        assert (outline.page_count, outline.is_paged) == (3, True)
        for number in (1, 2, 3):
            rendered = process.render(1, number, seconds=PATIENCE_SECONDS)
            assert rendered.pixels.shape == (1024, 723, 3) and not rendered.degraded_reasons
            assert np.abs(rendered.pixels.mean() / 255 - (1 - number / 4)) < 0.01
