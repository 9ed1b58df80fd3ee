import numpy as np
import pymupdf
import pytest

from service.raster import pdf_engine
from service.raster.page import SLOT_BYTES, PagePixels, RasterFailure
from service.raster.pdf_engine import PdfDocument
from service.raster.pdf_warnings import reasons_of
from tests.documents import (
    make_encrypted_pdf,
    make_image,
    make_pdf,
    make_pdf_with_truncated_image,
    make_raw_pdf,
)


def pixels(page: PagePixels) -> np.ndarray:
    return np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)


def failure_of(data: bytes, *, number: int = 1) -> str:
    with pytest.raises(RasterFailure) as caught:
        PdfDocument(data).render(number)
    return caught.value.code


@pytest.mark.parametrize(
    ("width", "height", "shape"), [(612, 792, (1024, 791)), (792, 612, (791, 1024)), (50, 50, (1024, 1024))]
)
def test_longest_edge_is_1024_pixels(width: float, height: float, shape: tuple[int, int]) -> None:
    page = PdfDocument(make_pdf(1, width=width, height=height)).render(1)
    assert abs(page.height - shape[0]) <= 1
    assert abs(page.width - shape[1]) <= 1
    assert max(page.width, page.height) == 1024
    assert len(page.data) == page.width * page.height * 3


def test_pages_differ_and_are_counted_from_one() -> None:
    document = PdfDocument(make_pdf(3))
    darkness = [255 - pixels(document.render(number)).mean() for number in (1, 2, 3)]
    assert document.page_count == 3
    assert darkness == sorted(darkness)
    assert darkness[2] == pytest.approx(3 * darkness[0], rel=0.02)


def test_pixels_outlive_the_document() -> None:
    document = PdfDocument(make_pdf(1))
    page = document.render(1)
    document.close()
    assert pixels(page).min() == 0


@pytest.mark.parametrize("data", [b"", b"hello", b"<html><body>hi</body></html>", make_image(), b"%PDF-1.7\n"])
def test_bytes_that_are_no_pdf_are_corrupt(data: bytes) -> None:
    assert failure_of(data) == "corrupt_document"


def test_other_format_behind_the_magic_number_is_not_opened() -> None:
    assert failure_of(b"<html><!-- %PDF-1.7 --><body>hi</body></html>") in {"corrupt_document", "no_pages"}


def test_junk_before_the_header_is_tolerated() -> None:
    assert PdfDocument(b"x" * 500 + make_pdf(2)).page_count == 2


def test_password_is_needed() -> None:
    assert failure_of(make_encrypted_pdf(password="secret")) == "encrypted_document"


def test_empty_password_opens() -> None:
    assert PdfDocument(make_encrypted_pdf(password="")).page_count == 1


def test_first_half_never_renders_as_if_it_were_whole() -> None:
    data = make_pdf(5)
    assert failure_of(data[: len(data) // 2]) in {"no_pages", "corrupt_document", "page_unreadable"}


@pytest.mark.parametrize("box", ["[0 0 1000 1]", "[0 0 1 201]"])
def test_sliver_is_a_bad_page_box(box: str) -> None:
    assert failure_of(make_raw_pdf(media_box=box)) == "bad_page_box"


def test_user_unit_zero_is_a_bad_page_box() -> None:
    assert failure_of(make_raw_pdf(media_box="[0 0 100 100]", page_keys="/UserUnit 0")) == "bad_page_box"


@pytest.mark.parametrize("box", ["[0 0 1000000 1000000]", "[0 0 nan 3]", "[]", "[100 100 0 0]", "[0 0 -5 -5]"])
def test_odd_boxes_stay_within_the_slot(box: str) -> None:
    page = PdfDocument(make_raw_pdf(media_box=box)).render(1)
    assert max(page.width, page.height) == 1024
    assert len(page.data) <= SLOT_BYTES


def test_narrow_page_is_padded_with_white_and_not_stretched() -> None:
    page = PdfDocument(make_raw_pdf(media_box="[0 0 10 1000]", content=b"0 0 10 1000 re f")).render(1)
    assert (page.width, page.height) == (28, 1024)
    assert pixels(page)[:, :10].max() == 0
    assert pixels(page)[:, 11:].min() == 255


def test_edge_of_1025_pixels_is_brought_to_1024() -> None:
    pixmap = pymupdf.Pixmap(pymupdf.csRGB, pymupdf.IRect(0, 0, 700, 1025))
    pixmap.clear_with(200)
    page = pdf_engine._fit(pixmap, degraded_reasons=())
    assert (page.width, page.height) == (700, 1024)
    assert set(page.data) == {200}


def test_lost_content_is_flagged_on_every_page_that_shows_it() -> None:
    document = PdfDocument(make_pdf_with_truncated_image())
    assert document.render(1).degraded_reasons == ("image",)
    assert document.render(1).degraded_reasons == ("image",)  # and not hidden by MuPDF's cache of decoded images
    assert PdfDocument(make_pdf(1)).render(1).degraded_reasons == ()


@pytest.mark.parametrize(
    "warning", ["malloc of 5 bytes failed", "Insufficient memory (case 4)", "Size of tile data exceeds system limits"]
)
def test_content_lost_to_memory_is_an_error_unless_all_is_flagged(
    warning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warnings are MuPDF's, of a real shortage: which allocation fails, and so which of them comes, is chance."""
    strict, lenient = PdfDocument(make_pdf(1)), PdfDocument(make_pdf(1), on_degraded_page="flag")
    warnings = f"something\n{warning}\nIgnoring error during interpretation"
    monkeypatch.setattr(pymupdf.TOOLS, "mupdf_warnings", lambda reset: warnings)
    with pytest.raises(RasterFailure, match="page_degraded"):
        strict.render(1)
    assert lenient.render(1).degraded_reasons == ("memory",)


def test_harmless_warnings_are_no_loss() -> None:
    assert reasons_of("trying to repair broken xref\nrepairing PDF document") == frozenset()


def test_warnings_do_not_pile_up() -> None:
    for _ in range(3):
        PdfDocument(make_pdf_with_truncated_image()).render(1)
    assert pymupdf.TOOLS.mupdf_warnings() == ""


def test_engine_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    PdfDocument(make_pdf_with_truncated_image()).render(1)
    failure_of(b"%PDF-1.7 nonsense")
    assert capfd.readouterr() == ("", "")
