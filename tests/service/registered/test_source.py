"""A registered document that is replaced or deleted between its manifest and its bytes."""

import uuid
from dataclasses import dataclass, field

import pytest

from service.errors import DocumentNotFoundError, UnavailableError
from service.raster.page import DocumentOutline, Kind
from service.registered.files import DocumentFiles
from service.registered.source import RegisteredSource, require_manifest
from service.registered.store import DocumentReplaced, DocumentStore, Manifest
from tests.service.registered.stores import NEW, OLD, REPORT, manifest_of, put

MANIFEST = manifest_of(OLD)


@pytest.fixture
def store() -> DocumentStore:
    return DocumentStore(DocumentFiles(f"memory://{uuid.uuid4().hex}"))


def source_in(store: DocumentStore) -> RegisteredSource:
    return RegisteredSource(store=store, key=REPORT, manifest=require_manifest(store, REPORT), pages=None)


def test_source_knows_its_document_before_it_is_read(store: DocumentStore) -> None:
    manifest = put(store, OLD)
    source = source_in(store)
    assert (source.label, source.sha256, source.kind) == ("report", manifest.sha256, Kind.PDF)
    assert source.outline == DocumentOutline(page_count=3, is_paged=True)
    assert source.read().data == OLD


def test_replaced_document_is_read_in_its_new_version(store: DocumentStore) -> None:
    put(store, OLD)
    source = source_in(store)
    manifest = put(store, NEW)
    content = source.read()
    assert (content.data, content.sha256) == (NEW, manifest.sha256)


def test_deleted_document_is_not_found(store: DocumentStore) -> None:
    put(store, OLD)
    source = source_in(store)
    store.delete(REPORT)
    with pytest.raises(DocumentNotFoundError) as caught:
        source.read()
    assert caught.value.field == "id"


@dataclass
class RestlessStore(DocumentStore):
    """A store whose document is replaced before each read."""

    reads: list[Manifest] = field(default_factory=list)

    def manifest(self, key: object) -> Manifest:
        return MANIFEST

    def read(self, key: object, manifest: Manifest) -> bytes:
        self.reads.append(manifest)
        raise DocumentReplaced("report")


def test_document_that_is_replaced_again_and_again_is_given_up_after_three_reads() -> None:
    store = RestlessStore()
    with pytest.raises(UnavailableError, match="'report' is replaced too often") as caught:
        source_in(store).read()
    assert (caught.value.code, caught.value.retry_after_seconds) == ("store_unavailable", 5)
    assert len(store.reads) == 3
