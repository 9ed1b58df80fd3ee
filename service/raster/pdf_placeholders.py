# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""Finds PDFs whose pages stand in for content that no page holds: forms that exist as XFA only, and portfolios."""

from typing import Any

from pymupdf import mupdf

from service.degraded_reason import DegradedReason

_get = mupdf.ll_pdf_dict_gets

_MOST_XFA_PARTS = 100


def placeholder_of(document: Any, *, page_count: int) -> DegradedReason | None:
    """The kind of content that the pages of this PdfDocument stand in for; None for ordinary pages."""
    root = _get(mupdf.pdf_trailer(document).m_internal, "Root")
    if _is_portfolio(root):
        return DegradedReason.PORTFOLIO
    return DegradedReason.XFA_FORM if _is_only_xfa(root, page_count=page_count) else None


def _is_portfolio(root: Any) -> bool:
    """A collection of attached files, unless it asks viewers to show the document itself at first (View H)."""
    collection = _get(root, "Collection")
    return bool(mupdf.ll_pdf_is_dict(collection)) and mupdf.ll_pdf_to_name(_get(collection, "View")) != "H"


def _is_only_xfa(root: Any, *, page_count: int) -> bool:
    """A form whose pages a viewer must make from its XFA part: the document says so, or has one page and no other fields.

    A document of several pages that lost its fields when it was flattened has real pages, although its XFA part remained.
    """
    form = _get(root, "AcroForm")
    if not _has_template(_get(form, "XFA")):
        return False
    if mupdf.ll_pdf_to_bool(_get(root, "NeedsRendering")):
        return True
    return page_count == 1 and not _has_fields(_get(form, "Fields"))


def _has_template(xfa: Any) -> bool:
    """Whether the XFA part describes a form: it is one stream, or an array of names and streams with one called template."""
    return bool(mupdf.ll_pdf_is_stream(xfa)) or any(
        mupdf.ll_pdf_to_text_string(mupdf.ll_pdf_array_get(xfa, position)) == "template"
        for position in range(0, min(mupdf.ll_pdf_array_len(xfa), _MOST_XFA_PARTS), 2)
    )


def _has_fields(fields: Any) -> bool:
    """Signatures do not count: they can be added to a form that is XFA only."""
    return any(
        mupdf.ll_pdf_to_name(_get(mupdf.ll_pdf_array_get(fields, position), "FT")) != "Sig"
        for position in range(mupdf.ll_pdf_array_len(fields))
    )
