"""The documents of a query to sources: decoding, checks in order of cost, look-ups, and errors with their place as fields."""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from service.documents.gather import gather, gather_usable
from service.documents.selection import PageSelection, parse_page_selection
from service.documents.sources import Content, MemorySource, Source, loading_stage
from service.errors import (
    DocumentNotFoundError,
    InvalidRequestError,
    PageOutOfRangeError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaTypeError,
    UnusableDocumentError,
)
from service.raster.page import SINGLE_PAGE_OUTLINE, Kind
from service.records import DocumentReference, QueryDocument, TextDocument, Upload, UrlDocument
from tests.documents import make_image, make_pdf, make_tiff

PDF, PNG, TIFF = make_pdf(2), make_image(), make_tiff([(9, 9)] * 2)


class Shelf:
    """Registered documents by tenant and id."""

    def __init__(self, documents: dict[tuple[bytes, str], bytes] | None = None) -> None:
        self.documents = documents or {}
        self.threads: list[threading.Thread] = []

    def find_source(self, id: str, pages: PageSelection | None, *, tenant: bytes) -> MemorySource:
        self.threads.append(threading.current_thread())
        if (tenant, id) not in self.documents:
            raise DocumentNotFoundError("document_not_found", "not here", field="id")
        data = self.documents[tenant, id]
        content = Content(data=data, sha256=hashlib.sha256(data).hexdigest(), kind=Kind.PDF)
        return MemorySource(label=id, pages=pages, content=content)


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def upload(content: str | bytes, *, kind: str | None = None, pages: str | None = None, label: str = "report") -> Upload:
    data = content if isinstance(content, str) else bytearray(content)
    return Upload(name="documents[0].pdf", content=data, kind=kind, pages=pages, label=label)  # type: ignore[arg-type]


def reference(id: str, pages: str | None = None) -> DocumentReference:
    return DocumentReference(name="documents[0].id", id=id, pages=pages)


def text(content: str) -> TextDocument:
    return TextDocument(name="documents[0]", text=content, label="passage")


def url_document(*, pages: str | None = None) -> UrlDocument:
    return UrlDocument(name="documents[0].url", url="https://example.org/a", pages=pages, label="a")


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def gathered(
    threads: Executor,
    *documents: QueryDocument,
    shelf: Shelf | None = None,
    max_file_bytes: int = 1 << 20,
    fetched: Mapping[int, bytearray] | None = None,
) -> Sequence[Source]:
    return asyncio.run(
        gather(
            documents,
            tenant=b"us",
            registered=shelf or Shelf(),
            max_file_bytes=max_file_bytes,
            threads=threads,
            fetched=fetched or {},
        )
    )


def test_sources_come_in_the_order_of_the_documents_with_label_selection_and_hash(threads: Executor) -> None:
    shelf = Shelf({(b"us", "kept"): PDF})
    first, second, third = gathered(
        threads, upload(PNG, label="photo"), reference("kept", "2"), upload(PDF, pages="1-"), shelf=shelf
    )
    assert [first.label, second.label, third.label] == ["photo", "kept", "report"]
    assert [first.kind, third.kind] == [Kind.IMAGE, Kind.PDF]
    assert first.sha256 == hashlib.sha256(PNG).hexdigest()
    assert [first.pages, second.pages, third.pages] == [None, parse_page_selection("2"), parse_page_selection("1-")]
    assert third.read().data == PDF and third.is_in_memory


@pytest.mark.parametrize(
    "prefix", ["", "data:application/pdf;base64,", "data:;base64,", "data:a/b;charset=utf-8;base64,"]
)
def test_base64_is_decoded_with_and_without_the_head_of_a_data_uri(threads: Executor, prefix: str) -> None:
    [source] = gathered(threads, upload(prefix + base64_of(PDF), kind="pdf"))
    assert source.read().data == PDF


def test_base64_longer_than_a_step_is_decoded_whole(threads: Executor) -> None:
    data = PDF + bytes(range(256)) * 8_192
    [source] = gathered(threads, upload(base64_of(data), kind="pdf"), max_file_bytes=4 << 20)
    assert source.read().data == data


def test_only_images_of_one_page_by_their_format_have_an_outline(threads: Executor) -> None:
    sources = gathered(threads, upload(PNG), upload(TIFF), upload(PDF))
    assert [source.outline for source in sources] == [SINGLE_PAGE_OUTLINE, None, None]


def test_tenant_finds_its_own_registered_documents_only(threads: Executor) -> None:
    shelf = Shelf({(b"them", "theirs"): PDF})
    with pytest.raises(DocumentNotFoundError) as caught:
        gathered(threads, upload(PDF), reference("theirs"), shelf=shelf)
    assert (caught.value.document_index, caught.value.field) == (1, "id")


def test_work_is_done_in_the_threads(threads: Executor) -> None:
    shelf = Shelf({(b"us", "kept"): PDF})
    gathered(threads, reference("kept"), shelf=shelf)
    assert shelf.threads != [threading.current_thread()] and len(shelf.threads) == 1


FAULTS: dict[str, tuple[QueryDocument, type[ServiceError], str, str]] = {
    "URL": (upload("https://example.org/a.pdf"), UnusableDocumentError, "url_not_supported", "content"),
    "letters": (upload("not base64!!"), UnusableDocumentError, "invalid_base64", "content"),
    "padding": (upload("abc=abc"), UnusableDocumentError, "invalid_base64", "content"),
    "padding in the middle": (
        upload("A" * ((1 << 20) - 2) + "==" + "AAAA"),
        UnusableDocumentError,
        "invalid_base64",
        "content",
    ),
    "large base64": (upload("A" * (4 << 20)), TooLargeError, "file_too_large", "content"),
    "large file": (upload(bytes(2 << 20)), TooLargeError, "file_too_large", "content"),
    "empty": (upload(b""), UnusableDocumentError, "corrupt_document", "content"),
    "empty image": (upload("", kind="image"), UnusableDocumentError, "corrupt_image", "content"),
    "other format": (upload(b"hello"), UnsupportedMediaTypeError, "unsupported_media_type", "content"),
    "other kind": (
        upload(base64_of(PNG), kind="pdf"),
        UnsupportedMediaTypeError,
        "unsupported_media_type",
        "content",
    ),
    "large text": (text("é" * (1 << 20)), TooLargeError, "file_too_large", "content"),
    "huge text": (text("e" * (2 << 20)), TooLargeError, "file_too_large", "content"),
    "no text": (text(""), UnusableDocumentError, "empty_text", "content"),
    "spaces": (text(" \n\t\u3000"), UnusableDocumentError, "empty_text", "content"),
    "selection": (upload(PDF, pages="x"), InvalidRequestError, "invalid_request", "pages"),
    "page 0": (reference("kept", "0"), PageOutOfRangeError, "page_out_of_range", "pages"),
}


@pytest.mark.parametrize(("document", "kind", "code", "field"), FAULTS.values(), ids=FAULTS.keys())
def test_error_has_its_place_as_fields_and_not_in_its_message(
    threads: Executor, document: QueryDocument, kind: type[ServiceError], code: str, field: str
) -> None:
    with pytest.raises(kind) as caught:
        gathered(threads, upload(PDF), document, shelf=Shelf({(b"us", "kept"): PDF}))
    error = caught.value
    assert (error.code, error.document_index, error.field, error.param) == (code, 1, field, None)
    assert "documents" not in error.message and "pages:" not in error.message


def test_kind_of_a_file_part_is_decided_by_its_bytes(threads: Executor) -> None:
    [source] = gathered(threads, upload(PDF, kind="image"))
    assert source.kind is Kind.PDF


def test_base64_without_a_declared_kind_is_taken_as_the_kind_that_it_is(threads: Executor) -> None:
    assert [source.kind for source in gathered(threads, upload(base64_of(PNG)), upload(base64_of(PDF)))] == [
        Kind.IMAGE,
        Kind.PDF,
    ]


def test_text_is_its_utf_8_bytes(threads: Executor) -> None:
    [source] = gathered(threads, text("Hafen, Ölmühle, 港"))
    data = "Hafen, Ölmühle, 港".encode()
    assert source.read().data == data and source.sha256 == hashlib.sha256(data).hexdigest()
    assert (source.kind, source.label, source.pages, source.is_in_memory) == (Kind.TEXT, "passage", None, True)


def test_text_that_begins_like_a_pdf_is_a_text(threads: Executor) -> None:
    assert [source.kind for source in gathered(threads, text("%PDF-1.7"), text("GIF89a"))] == [Kind.TEXT] * 2


def test_only_a_short_text_has_an_outline(threads: Executor) -> None:
    sources = gathered(threads, text("harbour " * 60), text("harbour " * 600), text("a\n" * 60))
    assert [source.outline for source in sources] == [SINGLE_PAGE_OUTLINE, None, None]


@pytest.mark.parametrize(
    ("sent", "drawn"), [("\ud83d", "\ufffd"), ("a\udc00b", "a\ufffdb"), ("\ud83d\ude00", "\U0001f600")]
)
def test_half_of_a_surrogate_pair_is_a_sign_of_damage(threads: Executor, sent: str, drawn: str) -> None:
    """JSON can carry one in an escape; no encoding of characters can."""
    assert json.loads(f'"{sent.encode("unicode_escape").decode()}"') in (sent, drawn)
    [source] = gathered(threads, text(sent))
    assert source.read().data == drawn.encode()


def test_document_with_the_lowest_index_is_reported(threads: Executor) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        gathered(threads, upload(PDF), upload(b"hello"), upload(b""))
    assert caught.value.document_index == 1


def test_request_is_in_render_where_one_document_is_no_image(threads: Executor) -> None:
    assert loading_stage(gathered(threads, upload(PNG), upload(TIFF))) == "decode"
    assert loading_stage(gathered(threads, upload(PNG), upload(PDF))) == "render"
    assert loading_stage(gathered(threads, text("harbour"))) == "render"


def test_a_fetched_document_is_read_like_an_upload(threads: Executor) -> None:
    documents = (upload(PNG), url_document(pages="2"), url_document())
    sources = gathered(threads, *documents, fetched={1: bytearray(PDF), 2: bytearray(TIFF)})
    assert [(source.kind, source.label) for source in sources[1:]] == [(Kind.PDF, "a"), (Kind.IMAGE, "a")]
    assert sources[1].pages == parse_page_selection("2") and sources[1].sha256 == hashlib.sha256(PDF).hexdigest()


@pytest.mark.parametrize(
    ("document", "data", "code", "field"),
    [
        (url_document(), b"hello", "unsupported_media_type", "content"),
        (url_document(), b"", "corrupt_document", "content"),
        (url_document(pages="0"), PDF, "page_out_of_range", "pages"),
    ],
)
def test_a_fetched_document_can_be_at_fault(
    threads: Executor, document: UrlDocument, data: bytes, code: str, field: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        gathered(threads, upload(PNG), document, fetched={1: bytearray(data)})
    assert (caught.value.code, caught.value.field, caught.value.document_index) == (code, field, 1)


def test_unusable_documents_are_errors_in_their_places_where_they_are_skipped(threads: Executor) -> None:
    refusal = UnusableDocumentError("url_refused", "not from there", document_index=7)
    documents: list[QueryDocument] = [
        upload(PDF),
        upload("%"),
        reference("gone"),
        text(" "),
        upload(b"GIF"),
        url_document(),
        upload(b"1" * 99),
    ]

    def found(*documents: QueryDocument) -> list[Source | ServiceError]:
        return asyncio.run(
            gather_usable(
                documents,
                tenant=b"us",
                registered=Shelf(),
                max_file_bytes=max(len(PDF), 90),
                threads=threads,
                fetched={5: refusal},
            )
        )

    source, *errors = found(*documents)
    assert isinstance(source, MemorySource) and source.content.data == PDF
    assert [(error.code, error.document_index) for error in errors if isinstance(error, ServiceError)] == [
        ("invalid_base64", 1),
        ("document_not_found", 2),
        ("empty_text", 3),
        ("unsupported_media_type", 4),
        ("url_refused", 5),
        ("unsupported_media_type", 6),
    ]
    with pytest.raises(InvalidRequestError):
        found(upload(PDF, pages="first"))  # a fault of the request
