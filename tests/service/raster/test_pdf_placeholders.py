import pytest

from service.raster.page import RasterFailure
from service.raster.pdf_engine import PdfDocument
from tests.broken_pdfs import make_pdf_with_root


def refusal_of(data: bytes) -> str | None:
    try:
        PdfDocument(data)
    except RasterFailure as failure:
        return failure.code
    return None


@pytest.mark.parametrize(
    "root_keys",
    [
        b"/NeedsRendering true/AcroForm<</Fields[]/XFA @xfa>>",
        b"/NeedsRendering true/AcroForm<</Fields[@field]/XFA[(template) @xfa]>>",
        b"/AcroForm<</Fields[]/XFA @xfa>>",
        b"/AcroForm<</XFA[(template) @xfa]>>",
        b"/AcroForm<</Fields[@signature]/XFA @xfa>>",
    ],
)
def test_form_that_is_xfa_only_is_refused_or_flagged(root_keys: bytes) -> None:
    assert refusal_of(make_pdf_with_root(root_keys)) == "xfa_form"
    flagged = PdfDocument(make_pdf_with_root(root_keys), on_degraded_page="flag").render(1)
    assert flagged.degraded_reasons == ("xfa_form",)


@pytest.mark.parametrize(
    "root_keys",
    [
        b"",
        b"/NeedsRendering true",
        b"/AcroForm<</Fields[]>>",
        b"/AcroForm<</Fields[@field]/XFA @xfa>>",  # drawn from its fields
        b"/NeedsRendering false/AcroForm<</Fields[@signature @field]/XFA[(template) @xfa]>>",
        b"/AcroForm<</Fields[]/XFA[]>>",
        b"/AcroForm<</Fields[]/XFA null>>",
        b"/AcroForm<</Fields[]/XFA[(form) @xfa]>>",
        b"/AcroForm 7",
    ],
)
def test_other_forms_are_ordinary(root_keys: bytes) -> None:
    assert PdfDocument(make_pdf_with_root(root_keys)).render(1).degraded_reasons == ()


def test_flattened_form_of_several_pages_is_ordinary() -> None:
    data = make_pdf_with_root(b"/AcroForm<</Fields[]/XFA @xfa>>", pages=2)
    assert PdfDocument(data).render(2).degraded_reasons == ()


@pytest.mark.parametrize("collection", [b"<<>>", b"<</View/D>>", b"<</View/T/D(a.pdf)>>"])
def test_cover_of_a_portfolio_is_refused_or_flagged(collection: bytes) -> None:
    data = make_pdf_with_root(b"/Collection" + collection)
    assert refusal_of(data) == "portfolio"
    assert PdfDocument(data, on_degraded_page="flag").render(1).degraded_reasons == ("portfolio",)


@pytest.mark.parametrize("collection", [b"<</View/H>>", b" null", b" 7"])
def test_document_that_is_shown_before_its_attachments_is_ordinary(collection: bytes) -> None:
    assert PdfDocument(make_pdf_with_root(b"/Collection" + collection)).render(1).degraded_reasons == ()
