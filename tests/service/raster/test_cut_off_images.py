"""JPEG and PNG files without their end: accepted when the picture is there, flagged when a part is missing, else refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ServiceError
from service.raster.damaged_png import SIGNATURE, packed_chunk
from service.raster.image_decoder import ImageDocument
from service.raster.page import PagePixels, RasterFailure
from tests.documents import encode
from tests.service.raster.pools import image, running_pool

END = b"\xff\xd9"
END_OF_PNG = packed_chunk(b"IEND", b"")


def picture(size: tuple[int, int] = (72, 90)) -> Image.Image:
    """Noise above, white paper with a bar below: missing pixels differ from all of it."""
    noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.paste("white", (0, size[1] * 2 // 3, *size))
    image.paste("navy", (0, size[1] - 12, size[0] // 2, size[1] - 4))
    return image


JPEGS = {
    "baseline": encode(picture(), "JPEG", quality=80),
    "finest": encode(picture(), "JPEG", quality=100, subsampling=0),
    "own tables": encode(picture((70, 33)), "JPEG", optimize=True, quality=30),
    "restarts": encode(picture(), "JPEG", restart_marker_blocks=1),
    "progressive": encode(picture(), "JPEG", progressive=True),
    "grey": encode(picture().convert("L"), "JPEG"),
    "cmyk": encode(picture().convert("CMYK"), "JPEG"),
}
PNGS = {
    "colours": encode(picture(), "PNG"),
    "palette": encode(picture().convert("P"), "PNG"),
    "bilevel": encode(picture().convert("1"), "PNG"),
    "transparent": encode(picture().convert("RGBA"), "PNG"),
    "16 bits": encode(Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80) * 10), "PNG"),
}


def render(data: bytes, *, max_pixels: int = 10**6) -> PagePixels:
    return ImageDocument(data, max_pixels=max_pixels, max_edge=2_000).render(1)


def pixels(page: PagePixels) -> np.ndarray:
    return np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)


def is_refused(data: bytes) -> bool:
    with pytest.raises(RasterFailure) as caught:
        render(data)
    return caught.value.code == "corrupt_image"


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], len(SIGNATURE)
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        found.append((name, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def with_chunk(data: bytes, name: bytes, body: bytes, *, is_sound: bool = True) -> bytes:
    """The PNG file with one chunk more after its header."""
    chunk = bytearray(packed_chunk(name, body))
    chunk[-1] ^= 0 if is_sound else 255
    return data[:33] + bytes(chunk) + data[33:]


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_without_its_end_marker_is_the_whole_picture(kind: str) -> None:
    whole = render(JPEGS[kind])
    assert render(JPEGS[kind][:-2]) == whole and not whole.degraded_reasons


def test_jpeg_that_is_cut_within_a_marker_is_refused() -> None:
    assert is_refused(JPEGS["baseline"][:-1])


@pytest.mark.parametrize("has_end", [False, True])
def test_jpeg_that_lacks_its_last_rows_is_degraded(has_end: bool) -> None:
    whole, data = pixels(render(JPEGS["baseline"])), JPEGS["baseline"]
    page = render(data[: len(data) * 85 // 100] + (END if has_end else b""))
    assert page.degraded_reasons
    assert np.array_equal(pixels(page)[:32], whole[:32]) and not np.array_equal(pixels(page), whole)


@pytest.mark.parametrize("has_end", [False, True])
def test_jpeg_that_lacks_more_than_half_is_refused(has_end: bool) -> None:
    data = JPEGS["baseline"]
    assert is_refused(data[: len(data) // 3] + (END if has_end else b""))


def test_progressive_jpeg_that_lacks_scans_is_degraded_or_refused_though_it_has_an_end() -> None:
    data = JPEGS["progressive"]
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) == 10
    assert is_refused(data[: scans[1]] + END)  # the rough colours of blocks of 8 x 8 pixels alone
    assert render(data[: scans[9]] + END).degraded_reasons


def test_jpeg_whose_last_pixel_has_the_grey_of_missing_blocks_is_an_ordinary_one() -> None:
    data = encode(Image.new("RGB", (40, 40), (128, 128, 128)), "JPEG")
    assert not render(data).degraded_reasons and set(render(data).data) == {128}


def test_other_damage_to_a_jpeg_is_refused() -> None:
    data = JPEGS["baseline"]
    assert is_refused(data.replace(b"\xff\xdb", b"\xff\xfe"))  # no quantisation tables
    assert is_refused(data.replace(b"\xff\xc4", b"\xff\xc4\0\x03", 1))
    assert is_refused(END.join([data[:2], b""]))


@pytest.mark.parametrize("kind", JPEGS)
def test_a_missing_end_of_the_last_block_is_seen_wherever_the_file_is_cut(kind: str) -> None:
    whole = render(JPEGS[kind])
    for length in range(len(JPEGS[kind]) - 24, len(JPEGS[kind])):
        try:
            page = render(JPEGS[kind][:length])
        except RasterFailure as failure:
            assert failure.code == "corrupt_image"
        else:
            assert page.degraded_reasons or page == whole


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([*JPEGS.values(), *PNGS.values()]), st.data())
def test_no_cut_off_file_gives_another_page_than_the_whole_one_without_a_flag(data: bytes, cut: st.DataObject) -> None:
    # Half of the cuts are near the end, where a part of one code is missing.
    length = cut.draw(st.one_of(st.integers(0, len(data) - 1), st.integers(len(data) - 60, len(data) - 1)))
    try:
        page = render(data[:length])
    except RasterFailure as failure:
        assert failure.code == "corrupt_image"
    else:
        assert page.degraded_reasons or page == render(data)


@pytest.mark.parametrize("kind", PNGS)
def test_png_without_its_end_is_the_whole_picture(kind: str) -> None:
    whole = render(PNGS[kind])
    assert render(PNGS[kind][: -len(END_OF_PNG)]) == whole and not whole.degraded_reasons


@pytest.mark.parametrize("kind", ["colours", "bilevel", "16 bits"])
def test_png_that_lacks_its_last_rows_is_degraded_and_white_there(kind: str) -> None:
    whole = pixels(render(PNGS[kind]))
    header, *_, (_, packed), _ = chunks(PNGS[kind])
    rows = zlib.decompress(packed)
    cut = zlib.compress(rows[: len(rows) * 3 // 4])[:-6]
    page = render(SIGNATURE + packed_chunk(*header) + packed_chunk(b"IDAT", cut)[:-4])
    assert page.degraded_reasons
    assert np.array_equal(pixels(page)[:50], whole[:50]) and (pixels(page)[-12:] == 255).all()


def test_png_whose_data_ends_early_with_an_end_of_its_own_is_degraded() -> None:
    """Pillow leaves black rows, without an error."""
    header, *_, (_, packed), _ = chunks(PNGS["colours"])
    rows = zlib.decompress(packed)
    for share, has_flag in ((1.0, False), (0.99, True), (0.8, True)):
        cut = zlib.compress(rows[: int(len(rows) * share)])
        page = render(SIGNATURE + packed_chunk(*header) + packed_chunk(b"IDAT", cut) + END_OF_PNG)
        assert bool(page.degraded_reasons) is has_flag and (pixels(page)[-1] == 255).all()


@pytest.mark.parametrize("kind", PNGS)
def test_png_whose_last_row_is_black_is_an_ordinary_one(kind: str) -> None:
    with Image.open(io.BytesIO(PNGS[kind])) as image:
        image.paste(0, (0, image.height - 1, *image.size))
        data = encode(image, "PNG")
    assert not render(data).degraded_reasons


def test_png_that_lacks_more_than_half_is_refused() -> None:
    data = PNGS["colours"]
    assert is_refused(data[: len(data) // 3])


@pytest.mark.parametrize("name", [b"tEXt", b"pHYs", b"tIME", b"gAMA", b"eXIf", b"iCCP", b"zTXt", b"abCd"])
def test_wrong_checksum_of_a_chunk_without_pixels_costs_nothing(name: bytes) -> None:
    data = with_chunk(PNGS["colours"], name, b"\0\0\0\x01\0\0\0\0\0", is_sound=False)
    page = render(data)
    assert page == render(PNGS["colours"]) and not page.degraded_reasons


def test_wrong_checksum_keeps_the_orientation_and_the_other_chunks() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(picture(), "PNG", exif=exif)
    assert render(with_chunk(turned, b"tEXt", b"a\0b", is_sound=False)) == render(turned) != render(PNGS["colours"])
    linear = with_chunk(PNGS["colours"], b"gAMA", struct.pack(">I", 100_000))
    assert render(with_chunk(linear, b"tEXt", b"a\0b", is_sound=False)) == render(linear) != render(PNGS["colours"])


def test_wrong_checksum_of_transparency_is_flagged() -> None:
    rgb = encode(Image.new("RGB", (30, 30), "red"), "PNG")
    clear = struct.pack(">3H", 255, 0, 0)
    assert set(render(with_chunk(rgb, b"tRNS", clear)).data) == {255}
    page = render(with_chunk(rgb, b"tRNS", clear, is_sound=False))
    assert page.degraded_reasons and set(page.data) == {255}


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE"])
def test_wrong_checksum_of_a_chunk_that_the_pixels_need_is_refused(name: bytes) -> None:
    data = bytearray(PNGS["palette"])
    at = data.index(name)
    (length,) = struct.unpack_from(">I", data, at - 4)
    data[at + 4 + length] ^= 255
    assert is_refused(bytes(data))


def test_damaged_pixels_are_refused() -> None:
    data = bytearray(with_chunk(PNGS["colours"], b"tEXt", b"a\0b", is_sound=False))
    at = data.index(b"IDAT") + 2_000
    data[at : at + 200] = bytes(200)
    assert is_refused(bytes(data))


def test_mending_keeps_to_the_limit_of_pixels() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    data = SIGNATURE + packed_chunk(b"IHDR", header) + packed_chunk(b"IDAT", zlib.compress(bytes(10_000)))
    with pytest.raises(RasterFailure, match="image_too_many_pixels"):
        render(with_chunk(data, b"tEXt", b"a\0b", is_sound=False))


def test_interlaced_png_that_lacks_its_last_pass_is_refused() -> None:
    def interlaced(rows: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
        return SIGNATURE + packed_chunk(b"IHDR", header) + packed_chunk(b"IDAT", zlib.compress(rows)) + END_OF_PNG

    rows = b"".join(b"\0" + b"\x50" * width for width in (1, 1, 2, 2, 2, *[4] * 2, *[4] * 4, *[8] * 4))
    assert set(render(interlaced(rows)).data) == {0x50}
    assert is_refused(interlaced(rows[:-9]))
    mended = with_chunk(interlaced(rows), b"tEXt", b"a\0b", is_sound=False)
    assert set(render(mended).data) == {0x50} and not render(mended).degraded_reasons


def test_first_picture_of_a_camera_file_with_several_is_mended() -> None:
    stream = io.BytesIO()
    picture().save(stream, "MPO", save_all=True, append_images=[picture((20, 20))])
    data = stream.getvalue()
    first_end = data.index(END)
    assert render(data[: first_end + 2]) == render(data)
    assert render(data[: first_end - 200]).degraded_reasons


def test_an_image_that_lacks_rows_is_refused_with_a_remedy_where_the_setting_says_so() -> None:
    data = JPEGS["baseline"][: len(JPEGS["baseline"]) * 85 // 100]
    with running_pool(on_degraded_page="error") as pool, pytest.raises(ServiceError) as caught:
        pool.ask(image(data))
    assert caught.value.code == "page_degraded"
    assert caught.value.message.endswith(
        "a part of the picture is missing; the file may be cut off. Send the whole file."
    )
