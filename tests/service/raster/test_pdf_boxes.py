from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.raster.page import PagePixels
from service.raster.pdf_boxes import LETTER, Box, visible_box
from service.raster.pdf_engine import PdfDocument
from tests.broken_pdfs import write_pdf
from tests.documents import make_raw_pdf, stream

CORNER_COLOURS = ((255, 0, 0), (0, 160, 0), (0, 0, 255), (90, 90, 90))  # bottom left, then clockwise
MEDIA = Box(0, 0, 200, 300)

coordinates = st.integers(-400, 800)
numbers = st.one_of(coordinates, st.floats(allow_nan=True, allow_infinity=True))


def corners_of(page: PagePixels) -> list[int]:
    """The corners' colours by their places in CORNER_COLOURS; -1 for others. Bottom left, then clockwise."""
    pixels = np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3).astype(int)
    near, far = page.height // 8, -1 - page.height // 8
    left, right = page.width // 8, -1 - page.width // 8
    seen = [pixels[far, left], pixels[near, left], pixels[near, right], pixels[far, right]]
    return [
        next((place for place, colour in enumerate(CORNER_COLOURS) if abs(found - colour).max() < 40), -1)
        for found in seen
    ]


def painted(box: Box) -> bytes:
    """Instructions that fill the four quarters of the box with the colours."""
    width, height = (box.right - box.left) / 2, (box.top - box.bottom) / 2
    places = [(0, 0), (0, 1), (1, 1), (1, 0)]
    return b"\n".join(
        b"%.3f %.3f %.3f rg %f %f %f %f re f"
        % (*(part / 255 for part in colour), box.left + x * width, box.bottom + y * height, width, height)
        for (x, y), colour in zip(places, CORNER_COLOURS, strict=True)
    )


@pytest.mark.parametrize(
    "crop",
    [
        "[0 0 0 0]",
        "[50 50 50 250]",
        "[300 300 400 400]",
        "[200 0 400 300]",
        "[0 0 50]",
        "[0 0 /A 50]",
        "[]",
        "[10 10 10.5 200]",
    ],
)
def test_crop_box_that_shows_nothing_is_ignored(crop: str) -> None:
    page = PdfDocument(make_raw_pdf(media_box="[0 0 200 300]", content=painted(MEDIA), page_keys=f"/CropBox{crop}"))
    shown = page.render(1)
    assert (shown.height, corners_of(shown)) == (1024, [0, 1, 2, 3])
    assert shown.width == pytest.approx(1024 * 2 / 3, abs=1.5)


def test_page_without_a_usable_media_box_has_the_size_of_us_letter() -> None:
    crop = Box(100, 100, 300, 200)
    data = make_raw_pdf(media_box="[0 0 0 0]", content=painted(crop), page_keys="/CropBox[100 100 300 200]")
    page = PdfDocument(data).render(1)
    assert (page.width, page.height, corners_of(page)) == (1024, 512, [0, 1, 2, 3])
    assert visible_box(None, None) == LETTER


@given(
    media=st.lists(coordinates, min_size=4, max_size=4),
    crop=st.none() | st.lists(coordinates, min_size=4, max_size=4),
    rotation=st.integers(-2, 5),
    user_unit=st.sampled_from([None, 0.5, 1, 7.25]),
    inherited=st.booleans(),
    indirect=st.booleans(),
)
def test_the_picture_is_that_of_the_visible_box(
    media: list[int],
    crop: list[int] | None,
    rotation: int,
    user_unit: float | None,
    inherited: bool,
    indirect: bool,
) -> None:
    """The oracle has no rule of ours beyond the sizes of the common part."""
    left, right = max(min(media[0::2]), -400), max(media[0::2])
    bottom, top = min(media[1::2]), max(media[1::2])
    if right - left < 20 or top - bottom < 20:
        media = [0, 0, 612, 792]
        left, bottom, right, top = media
    visible = Box(left, bottom, right, top)
    if crop is not None:
        common = Box(
            max(left, min(crop[0::2])),
            max(bottom, min(crop[1::2])),
            min(right, max(crop[0::2])),
            min(top, max(crop[1::2])),
        )
        width, height = common.right - common.left, common.top - common.bottom
        if width > 0 and height > 0:
            if min(width, height) * 40 < max(width, height):  # corners too near to each other
                return
            visible = common
    data = pdf_with_boxes(
        painted(visible), media, crop, rotation=rotation, user_unit=user_unit, inherited=inherited, indirect=indirect
    )
    page = PdfDocument(data).render(1)
    turns = rotation % 4
    width, height = visible.right - visible.left, visible.top - visible.bottom
    ratio = height / width if turns % 2 else width / height
    if min(width, height) * 36 > max(width, height):
        assert page.width / page.height == pytest.approx(ratio, abs=0.02 * max(1, ratio))
        assert corners_of(page) == [(place - turns) % 4 for place in range(4)]


def pdf_with_boxes(
    content: bytes,
    media: Sequence[float],
    crop: Sequence[float] | None,
    *,
    rotation: int,
    user_unit: float | None,
    inherited: bool,
    indirect: bool,
) -> bytes:
    """A page whose boxes are its own or its parent's, as arrays or as references to arrays of references."""
    keys = b"/Rotate %d/MediaBox %s" % (90 * rotation, b"@media" if indirect else array_of(media))
    objects = {"one": b"%d" % media[0], "media": b"[@one %d %d %d]" % tuple(media[1:])}
    if crop is not None:
        keys += b"/CropBox " + (b"@crop" if indirect else array_of(crop))
        objects["last"] = b"%d" % crop[3]
        objects["crop"] = b"[%d %d %d @last]" % tuple(crop[:3])
    unit = b"" if user_unit is None else b"/UserUnit %f" % user_unit
    return write_pdf(
        {
            "catalog": b"<</Type/Catalog/Pages @pages>>",
            "pages": b"<</Type/Pages/Kids[@page]/Count 1%s>>" % (keys if inherited else b""),
            "page": b"<</Type/Page/Parent @pages/Contents @content%s%s>>" % (unit, b"" if inherited else keys),
            "content": stream(b"", content),
            **objects,
        }
    )


def array_of(numbers: Sequence[float]) -> bytes:
    return b"[%s]" % b" ".join(b"%d" % number for number in numbers)


@given(media=st.lists(numbers, max_size=6), crop=st.lists(numbers, max_size=6))
def test_visible_box_is_never_empty_and_lies_in_the_media_box(media: list[float], crop: list[float]) -> None:
    media_box, crop_box = Box.of(media), Box.of(crop)
    visible = visible_box(media_box, crop_box)
    assert visible.is_visible
    assert visible.within(media_box or LETTER) == visible
    assert visible == (media_box or LETTER) or crop_box is not None
