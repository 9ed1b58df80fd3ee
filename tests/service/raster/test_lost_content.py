"""Pages that lost content, in two PDF engines: the service's must say so wherever the other one draws another picture."""

import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.raster import pdf_warnings
from service.raster.page import PagePixels, RasterFailure
from service.raster.pdf_engine import PdfDocument
from service.raster.pdf_warnings import reasons_of
from tests.broken_pdfs import BrokenPdf, broken_pdfs, intact_sheets, sheet, write_pdf
from tests.documents import make_pdf, make_raw_pdf, stream

SAMPLES = Path(__file__).parents[3].parent / "shared" / "samples"
EDGE = 150
MOST_DIFFERENT = 0.03  # of the pixels, by more than 64 of 255 in a channel; edges of letters and shadings stay below it
EVERY = 7  # of the 4,000 files; a run over all of them takes a minute
SHEETS = intact_sheets()


def reduced(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((EDGE, EDGE), Image.Resampling.BOX), int)


def drawn(page: PagePixels) -> np.ndarray:
    return reduced(Image.frombytes("RGB", (page.width, page.height), page.data))


def render(data: bytes) -> PagePixels | str:
    """The page, or the code of the refusal."""
    try:
        return PdfDocument(data).render(1)
    except RasterFailure as failure:
        return failure.code


def reasons_for(data: bytes) -> tuple[str, ...] | str:
    page = render(data)
    return page if isinstance(page, str) else page.degraded_reasons


def drawn_by_pdfium(data: bytes) -> np.ndarray | None:
    """None: it cannot open the page."""
    pdfium = pytest.importorskip("pypdfium2")
    try:
        document = pdfium.PdfDocument(data)
        document.init_forms()
        return reduced(document[0].render(scale=2).to_pil())
    except pdfium.PdfiumError:
        return None


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float((abs(one - other).max(axis=2) > 64).mean())


def some_broken_pdfs() -> Iterator[BrokenPdf]:
    return islice(broken_pdfs(), 0, None, EVERY)


def test_page_that_another_engine_draws_otherwise_is_flagged_or_refused() -> None:
    missed, count, different = [], 0, 0
    for broken in some_broken_pdfs():
        page, other = render(broken.data), drawn_by_pdfium(broken.data)
        count += 1
        if isinstance(page, str):
            continue
        if other is None or difference(drawn(page), other) > MOST_DIFFERENT:
            different += 1
            if not page.degraded_reasons:
                missed.append(broken.name)
    assert count >= 300 and different >= 50, "the corpus is one"
    assert missed == []


@pytest.mark.parametrize("name", SHEETS)
def test_intact_page_is_not_flagged(name: str) -> None:
    assert reasons_for(write_pdf(SHEETS[name])) == ()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs the sample documents")
@pytest.mark.parametrize("name", ["pdf-cweb-28-pages.pdf", "pdf-mixed-rotated-16-pages.pdf", "pdf-empty-password.pdf"])
def test_pages_of_real_documents_are_not_flagged(name: str) -> None:
    document = PdfDocument((SAMPLES / name).read_bytes())
    reasons = [document.render(number).degraded_reasons for number in range(1, document.page_count + 1)]
    assert reasons == [()] * document.page_count


@pytest.mark.parametrize("fault", ["missing", "null", "a number", "an empty stream", "an empty array"])
def test_page_object_that_is_none_is_refused(fault: str) -> None:
    [data] = [broken.data for broken in broken_pdfs() if broken.name == f"lines, page: {fault}"]
    assert render(data) == "page_unreadable"


def test_the_next_page_with_the_same_fault_is_flagged_too() -> None:
    """MuPDF counts equal warnings that follow each other, and tells of the count later."""
    objects = {**sheet(b"/Gone Do"), "pages": b"<</Type/Pages/Kids[@page @again]/Count 2>>"}
    document = PdfDocument(write_pdf({**objects, "again": objects["page"]}))
    assert [document.render(number).degraded_reasons for number in (1, 2, 1)] == [("content",)] * 3
    assert PdfDocument(write_pdf(objects)).render(1).degraded_reasons == ("content",)


def test_missing_graphics_state_is_harmless() -> None:
    assert reasons_for(write_pdf(sheet(b"/Gone gs 1 0 0 rg 50 50 100 100 re f"))) == ()


def test_text_in_a_font_that_the_page_lacks_is_flagged() -> None:
    assert reasons_for(write_pdf(sheet(b"BT /F 20 Tf 50 100 Td (river) Tj ET"))) == ("font",)


INVISIBLE = b"BT /X 20 Tf 3 Tr 10 50 Td (river) Tj ET"
HELVETICA = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"


def one_page(content: bytes, font: bytes = HELVETICA, page_keys: str = "") -> bytes:
    page = make_raw_pdf(media_box="[0 0 100 100]", content=content, more=[font], page_keys=page_keys)
    return page.replace(b"/XObject<</X 5 0 R>>", b"/Font<</X 5 0 R>>")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1 1 1 rg 0 0 100 100 re f",
        b"BT /X 20 Tf 10 50 Td (   ) Tj ET",
        INVISIBLE,
        b"0 g 200 200 10 10 re f",
        b"q Q",
    ],
)
def test_page_that_is_blank_is_ordinary(content: bytes) -> None:
    assert reasons_for(one_page(content)) == ()


@pytest.mark.parametrize(
    ("content", "font"),
    [
        (b"q 0 0 0 0 re W n 0 g 0 0 50 50 re f Q", HELVETICA),
        (b"BT /X 20 Tf 10 50 Td <0102> Tj ET", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"),
    ],
)
def test_page_that_is_white_although_it_paints_is_flagged(content: bytes, font: bytes) -> None:
    assert reasons_for(one_page(content, font)) == ("blank",)


def test_a_warning_that_no_class_knows_is_flagged() -> None:
    assert reasons_of("the moon is full") == {"unknown"}
    assert reasons_of("\n") == reasons_of("... repeated 3 times...") == frozenset()


def test_reasons_of_all_lines_count() -> None:
    assert reasons_of("syntax error: image height is zero (or less)\ncannot render glyph") == {"image", "font"}
    assert reasons_of("repairing PDF document\n" * 5_000 + "cannot render glyph") == {"font"}


def test_classes_are_those_of_the_evidence() -> None:
    """A class that is called harmless has no damaged page, apart from those that another class tells of."""
    signs = [warning.sign for warning in pdf_warnings.CLASSES]
    assert len(signs) == len(set(signs))
    assert all(sign == sign.lower() for sign in signs)
    assert sum(warning.pages > 0 for warning in pdf_warnings.CLASSES) > 50
    assert all(warning.damaged <= warning.pages for warning in pdf_warnings.CLASSES)


def test_hostile_content_is_searched_in_bounds() -> None:
    """64 MiB of spaces in 64 KB."""
    data = zlib.compress(zlib.compress(b" " * (64 << 20)))
    page = one_page(b"", page_keys="").replace(stream(b"", b""), stream(b"/Filter[/FlateDecode/FlateDecode]", data), 1)
    assert reasons_for(page) == ()


def test_resources_that_name_themselves_are_looked_at_once() -> None:
    form = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 5 0 R/Y 5 0 R>>>>", b"")
    assert reasons_for(make_raw_pdf(media_box="[0 0 100 100]", content=b"0 0 9 9 re f", more=[form])) == ()


def test_ordinary_pages_have_no_reason() -> None:
    assert reasons_for(make_pdf(1)) == ()
