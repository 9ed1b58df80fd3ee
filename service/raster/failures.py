"""The error for a document that cannot be turned into pages: its place as fields; value, limit and remedy in the message.

The worker sends a code and two sizes at most; every word is written here, so that no library's text can leak.
"""

from model.pages.image import MAX_ASPECT_RATIO
from service.errors import ServiceError, TooLargeError, UnusableDocumentError
from service.raster.limits import RasterLimits
from service.raster.page import MAX_FRAMES, MAX_TEXT_PAGES, Kind, RasterFailure
from service.raster.process import ProcessDied
from service.raster.request import RasterTask

_CLIENT_CODES = {
    "xfa_form": "unsupported_document",
    "portfolio": "unsupported_document",
    "content_lost": "page_degraded",
}
"""The code in the answer, where the worker's tells more."""

_SENTENCES = {
    "xfa_form": "the PDF is a form that exists as XFA only, and its page merely says so. Print the form to a new PDF in Adobe "
    "Acrobat or Reader, or send images of it.",
    "portfolio": "the PDF is a portfolio, and its pages are the cover of the attached files. Send the attached files "
    "themselves.",
    "content_lost": "content of the page was lost, because a part of the document is damaged or missing. Re-save the PDF, or "
    "leave the page out by a page selection.",
    "encrypted_document": "the PDF needs a password. Send it without encryption.",
    "corrupt_document": "the PDF cannot be opened. Re-save the PDF, or print it to a new one.",
    "no_pages": "the PDF has no pages; it may be cut off. Re-save the PDF.",
    "page_unreadable": "the page cannot be read. Re-save the PDF, or leave the page out by a page selection.",
    "page_degraded": "content of the page was lost, because drawing it needs more memory than the limit of "
    "{memory_mebibytes} MiB. Simplify the page, or send it as an image.",
    "page_memory": "it needs more memory than the limit of {memory_mebibytes} MiB. Simplify it, or send it as an image.",
    "page_crashed": "the document crashed the renderer. Re-save the PDF, or send its pages as images.",
    "corrupt_image": "the image cannot be decoded; it may be cut off. Re-save the image.",
    "bad_page_box": "the size{size} is not usable: both sides must be above 0, and the longer at most {ratio} times "
    "the shorter.",
    "image_too_many_pixels": "the image{size} is too large, at most {max_pixels} pixels and {max_edge} along an edge "
    "are accepted. Scale it down.",
    "too_many_pages": "the image has more than {max_frames} frames, which is the limit. Split it.",
}
_TEXT_SENTENCES = {
    "content_lost": "no installed font has some of the text's characters. Send it as a PDF or an image, or install a font.",
    "empty_text": "nothing in the text can be drawn; it has only spaces and invisible characters. Send at least one letter.",
    "too_many_pages": "the text fills more than {max_text_pages} pages, which is the limit. Send it in parts.",
    "page_memory": "drawing the text needs more memory than the limit of {memory_mebibytes} MiB. Send it in parts.",
    "page_crashed": "the text crashed the renderer. Send it in parts, or as a PDF.",
}
"""For texts, where they differ from files, or fail as no file does."""

_IMAGE_SENTENCES = {
    "content_lost": "a part of the picture is missing; the file may be cut off. Send the whole file.",
}
_SENTENCES_OF_KINDS = {Kind.TEXT: _TEXT_SENTENCES, Kind.IMAGE: _IMAGE_SENTENCES}

_CODE_OF_DEATH = {
    "timeout": "page_timeout",
    "cpu": "page_timeout",
    "memory": "page_memory",
    "protocol": "page_crashed",
    "crash": "page_crashed",
}


def code_of_death(death: ProcessDied) -> str:
    """The error code for the document that the worker was busy with."""
    return _CODE_OF_DEATH[death.cause]


def client_error(failure: RasterFailure, task: RasterTask, *, limits: RasterLimits) -> ServiceError:
    """For a failure that the worker reports."""
    sentences = _SENTENCES | _SENTENCES_OF_KINDS.get(task.state.document.kind, {})
    sentence = sentences[failure.code].format(
        size=f" of {failure.width} x {failure.height}" if failure.width is not None else "",
        ratio=MAX_ASPECT_RATIO,
        max_pixels=limits.max_image_pixels,
        max_edge=limits.max_image_edge,
        max_frames=MAX_FRAMES,
        max_text_pages=MAX_TEXT_PAGES,
        memory_mebibytes=limits.worker_memory_bytes >> 20,
    )
    return _error(failure.code, sentence, task)


def client_error_of_code(code: str, task: RasterTask, *, limits: RasterLimits) -> ServiceError:
    """For a failure that the parent detects: a deadline, a crash, a document in quarantine."""
    if code != "page_timeout":
        return client_error(RasterFailure(code), task, limits=limits)
    if task.state.seconds_used >= limits.document_seconds:
        work, limit = "the document", limits.document_seconds
    elif task.number is None:
        work, limit = "opening the document", limits.open_seconds
    else:
        work, limit = "it", limits.page_seconds
    is_text = task.state.document.kind is Kind.TEXT
    remedy = "Send it in parts." if is_text else "Simplify it, or send it as an image."
    sentence = f"{work} takes longer than the limit of {limit:g} s. {remedy}"
    return _error(code, sentence, task)


def _error(code: str, sentence: str, task: RasterTask) -> ServiceError:
    code = _CLIENT_CODES.get(code, code)
    kind = TooLargeError if code in TooLargeError.codes else UnusableDocumentError
    page = task.number if task.state.is_paged else None
    return kind(code, sentence, document_index=task.state.document.index, page=page)
