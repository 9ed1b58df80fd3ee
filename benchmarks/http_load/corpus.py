"""What clients send: single JPEG pages, whole PDFs, or the names of pages that were registered before.

Each corpus makes requests out of its own things; which of them, a `Chooser` says, so that popular pages come again.
"""

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.http_load.arrivals import Chooser
from benchmarks.paper import make_jpeg_page, make_pdf

FORMS = ("jpeg", "pdf", "registered")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A `POST /rerank`."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A document that is registered before the load begins."""

    document_id: str
    pdf: bytes


class Corpus(Protocol):
    @property
    def uploads(self) -> Sequence[Upload]:
        """What must be registered first."""

    @property
    def size(self) -> int:
        """Things among which a chooser chooses."""

    def requests(self, chooser: Chooser) -> Iterator[HttpRequest]:
        """Requests without end, no two with the same query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegPages:
    """Multipart requests of single page images."""

    pages: Sequence[bytes]
    pages_per_request: int
    options: dict[str, Any]
    uploads: Sequence[Upload] = ()

    @property
    def size(self) -> int:
        return len(self.pages)

    def requests(self, chooser: Chooser) -> Iterator[HttpRequest]:
        for number in itertools.count():
            chosen = [self.pages[index] for index in chooser.draw(self.pages_per_request)]
            yield multipart(_query(number), chosen, "page.jpg", self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholePdfs:
    """Multipart requests of one PDF each."""

    pdfs: Sequence[bytes]
    options: dict[str, Any]
    uploads: Sequence[Upload] = ()

    @property
    def size(self) -> int:
        return len(self.pdfs)

    def requests(self, chooser: Chooser) -> Iterator[HttpRequest]:
        for number in itertools.count():
            [chosen] = chooser.draw(1)
            yield multipart(_query(number), [self.pdfs[chosen]], "document.pdf", self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredPages:
    """JSON requests of a few hundred bytes that name pages of registered documents."""

    uploads: Sequence[Upload]
    pages_per_document: int
    pages_per_request: int
    options: dict[str, Any]

    @property
    def size(self) -> int:
        return len(self.uploads) * self.pages_per_document

    def requests(self, chooser: Chooser) -> Iterator[HttpRequest]:
        for number in itertools.count():
            chosen = chooser.draw(self.pages_per_request)
            body = {"query": _query(number), "documents": self._references(chosen), "ziprerank": self.options}
            yield HttpRequest(body=json.dumps(body).encode(), content_type="application/json")

    def _references(self, chosen: Sequence[int]) -> list[dict[str, str]]:
        """The chosen pages, those of one document together."""
        pages_by_document: dict[int, list[int]] = {}
        for index in chosen:
            document, page = divmod(index, self.pages_per_document)
            pages_by_document.setdefault(document, []).append(page + 1)
        return [
            {"id": self.uploads[document].document_id, "pages": ",".join(map(str, sorted(pages)))}
            for document, pages in pages_by_document.items()
        ]


def make_corpus(form: str, *, corpus_pages: int, pages_per_request: int, options: dict[str, Any]) -> Corpus:
    """A corpus of one of the `FORMS`; its PDFs have as many pages as a request."""
    if form == "jpeg":
        images = [make_jpeg_page(number) for number in range(corpus_pages)]
        return JpegPages(pages=images, pages_per_request=pages_per_request, options=options)
    starts = range(0, corpus_pages, pages_per_request)
    pdfs = [make_pdf(range(start, start + pages_per_request)) for start in starts]
    if form == "pdf":
        return WholePdfs(pdfs=pdfs, options=options)
    return RegisteredPages(
        uploads=[Upload(document_id=f"benchmark-{number}", pdf=pdf) for number, pdf in enumerate(pdfs)],
        pages_per_document=pages_per_request,
        pages_per_request=pages_per_request,
        options=options,
    )


def multipart(query: str, files: Sequence[bytes], file_name: str, options: dict[str, Any]) -> HttpRequest:
    boundary = uuid.uuid4().hex
    fields = {"query": query, "ziprerank": json.dumps(options)}
    parts = [_part(boundary, f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [_part(boundary, f'name="file"; filename="{file_name}"', content) for content in files]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return HttpRequest(body=body, content_type=f"multipart/form-data; boundary={boundary}")


def _part(boundary: str, disposition: str, content: bytes) -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + content + b"\r\n"


def _query(number: int) -> str:
    return f"Which page names the revenue of quarter {number}, and the region that grew fastest?"
