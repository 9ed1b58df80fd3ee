# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""Finds PDFs whose pages stand in for content that no page holds: forms that exist as XFA only, and portfolios."""

from typing import Any

from pymupdf import mupdf

from service.degraded_reason import DegradedReason

_MOST_XFA_PARTS = 100


def placeholder_of(document: Any) -> DegradedReason | None:
    """The kind of content that the pages of this open document stand in for; None for ordinary pages."""
    root = mupdf.pdf_dict_gets(mupdf.pdf_trailer(mupdf.pdf_document_from_fz_document(document.this)), "Root")
    if _is_portfolio(root):
        return DegradedReason.PORTFOLIO
    return DegradedReason.XFA_FORM if _is_only_xfa(root, page_count=document.page_count) else None


def _is_portfolio(root: Any) -> bool:
    """A collection of attached files, unless it asks viewers to show the document itself at first (View H)."""
    collection = mupdf.pdf_dict_gets(root, "Collection")
    return bool(mupdf.pdf_is_dict(collection)) and mupdf.pdf_to_name(mupdf.pdf_dict_gets(collection, "View")) != "H"


def _is_only_xfa(root: Any, *, page_count: int) -> bool:
    """A form whose pages a viewer must make from its XFA part: the document says so, or has one page and no other fields.

    A document of several pages that lost its fields when it was flattened has real pages, although its XFA part remained.
    """
    form = mupdf.pdf_dict_gets(root, "AcroForm")
    if not _has_template(mupdf.pdf_dict_gets(form, "XFA")):
        return False
    if mupdf.pdf_to_bool(mupdf.pdf_dict_gets(root, "NeedsRendering")):
        return True
    return page_count == 1 and not _has_fields(mupdf.pdf_dict_gets(form, "Fields"))


def _has_template(xfa: Any) -> bool:
    """Whether the XFA part describes a form: it is one stream, or an array of names and streams with one called template."""
    return bool(mupdf.pdf_is_stream(xfa)) or any(
        mupdf.pdf_to_text_string(mupdf.pdf_array_get(xfa, position)) == "template"
        for position in range(0, min(mupdf.pdf_array_len(xfa), _MOST_XFA_PARTS), 2)
    )


def _has_fields(fields: Any) -> bool:
    """Signatures do not count: they can be added to a form that is XFA only."""
    return any(
        mupdf.pdf_to_name(mupdf.pdf_dict_gets(mupdf.pdf_array_get(fields, position), "FT")) != "Sig"
        for position in range(mupdf.pdf_array_len(fields))
    )
