"""Streams that MuPDF warns of although nothing is missing in them, beside the same with a part missing."""

import zlib

import pytest
from PIL import Image

from service.raster.pdf_engine import PdfDocument
from tests.broken_pdfs import sheet, write_pdf
from tests.documents import encode, stream

PICTURE = Image.effect_mandelbrot((240, 240), (-3, -2.5, 2, 2.5), 100)
SAMPLES = PICTURE.tobytes()
PACKED = zlib.compress(SAMPLES)
DEFLATE = b"/Filter/FlateDecode"
MARK = b" 1 0 0 rg 50 80 200 200 re f "


def reasons(objects: dict[str, bytes]) -> tuple[str, ...]:
    return PdfDocument(write_pdf(objects)).render(1).degraded_reasons


def with_image(data: bytes, keys: bytes = DEFLATE) -> dict[str, bytes]:
    image = b"/Type/XObject/Subtype/Image/Width 240/Height 240/BitsPerComponent 8/ColorSpace/DeviceGray" + keys
    return sheet(b"q 200 0 0 200 50 80 cm /X Do Q", b"/XObject<</X @image>>", image=stream(image, data))


def with_content(data: bytes, keys: bytes = DEFLATE) -> dict[str, bytes]:
    return {**sheet(b""), "content": stream(keys, data)}


def flushed(data: bytes) -> bytes:
    """As a producer writes it that never ends its compressed data."""
    packer = zlib.compressobj()
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("cut", [1, 4])
@pytest.mark.parametrize("place", ["image", "content"])
def test_checksum_that_is_cut_off_loses_nothing(place: str, cut: int) -> None:
    objects = with_image(PACKED[:-cut]) if place == "image" else with_content(zlib.compress(MARK)[:-cut])
    assert reasons(objects) == ()


@pytest.mark.parametrize(("checksum", "expected"), [(bytes(4), ()), (b"\1\2\3\4", ("content",))])
def test_only_a_checksum_that_nobody_computed_is_passed_over(checksum: bytes, expected: tuple[str, ...]) -> None:
    assert reasons(with_image(PACKED[:-4] + checksum)) == expected
    assert reasons(with_content(zlib.compress(MARK)[:-4] + checksum)) == expected


def test_data_that_were_flushed_and_never_ended_lose_nothing() -> None:
    assert reasons(with_image(flushed(SAMPLES))) == ()
    assert reasons(with_content(flushed(MARK))) == ()


@pytest.mark.parametrize(("rows", "expected"), [(240, ()), (236, ("content", "image")), (120, ("content", "image"))])
def test_image_is_judged_by_its_samples(rows: int, expected: tuple[str, ...]) -> None:
    packer = zlib.compressobj()
    data = packer.compress(SAMPLES[: rows * 240]) + packer.flush(zlib.Z_FULL_FLUSH)
    assert reasons(with_image(data[:-5])) == expected


def test_instructions_that_break_off_are_flagged_although_the_last_one_is_whole() -> None:
    packer = zlib.compressobj()
    data = packer.compress(MARK) + packer.flush(zlib.Z_SYNC_FLUSH)[:-4] + packer.compress(b"0 g 0 0 9 9 re f") + b"\x4b"
    assert reasons(with_content(data)) == ("content",)


def test_page_whose_instructions_have_no_byte_is_blank() -> None:
    assert reasons(with_content(b"")) == ()


@pytest.mark.parametrize("is_progressive", [False, True])
def test_jpeg_without_its_end_marker_is_whole_if_its_pixels_are(is_progressive: bool) -> None:
    data = encode(PICTURE, "JPEG", quality=90, progressive=is_progressive)
    assert reasons(with_image(data[:-2], b"/Filter/DCTDecode")) == ()
    assert reasons(with_image(data[: -len(data) // 4], b"/Filter/DCTDecode")) == ("image",)


def test_unknown_filter_is_harmless_where_the_data_are_plain_instructions() -> None:
    unknown = b"/Filter/Nonsense"
    assert reasons(with_content(MARK, unknown)) == ()
    assert reasons(with_content(zlib.compress(MARK), unknown)) != ()


@pytest.mark.parametrize("fault", [b"", b"no profile"])
def test_damaged_profile_is_replaced_by_its_kind_of_colours(fault: bytes) -> None:
    objects = sheet(
        b"/C cs .8 .2 .1 scn" + MARK, b"/ColorSpace<</C[/ICCBased @profile]>>", profile=stream(b"/N 3" + DEFLATE, fault)
    )
    assert reasons(objects) == ()


@pytest.mark.parametrize("space", [b"7", b"/Nonsense"])
def test_colour_space_that_no_picture_needs_is_harmless(space: bytes) -> None:
    group = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Group<</S/Transparency/I true/CS %s>>" % space, MARK)
    assert reasons(sheet(b"/X Do", b"/XObject<</X @form>>", form=group)) == ()
    assert reasons(sheet(b"/C cs 1 scn" + MARK, b"/ColorSpace<</C %s>>" % space)) == ("colour",)


@pytest.mark.parametrize("name", [b"P", b"Parent", b"Metadata"])
def test_stream_is_found_under_any_resource_name(name: bytes) -> None:
    keys = b"/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 50 50]/XStep 50/YStep 50/Resources<<>>/Filter/Nonsense"
    tile = stream(keys, b"1 0 0 rg 0 0 30 30 re f")
    named = b"/Pattern<</%s @tile>>" % name
    assert reasons(sheet(b"/Pattern cs /%s scn 50 80 200 200 re f" % name, named, tile=tile)) == ()


def test_a_whole_damaged_stream_does_not_speak_for_another() -> None:
    objects = with_image(PACKED[:-4])
    assert reasons(
        {**objects, "content": stream(DEFLATE, zlib.compress(b"q 200 0 0 200 50 80 cm /X Do Q " * 9)[:-9])}
    ) == ("content",)


def test_streams_that_unpack_to_too_much_are_not_followed() -> None:
    """100 MiB in 100 KB, of which the page shows nothing."""
    objects = with_image(PACKED[:-4])
    assert reasons(objects) == ()
    bomb = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]" + DEFLATE, zlib.compress(bytes(100 << 20), 9))
    assert reasons({**objects, "resources": b"<</XObject<</X @image/Y @bomb>>>>", "bomb": bomb}) == ("content",)
