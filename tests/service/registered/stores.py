"""Stores for tests, and documents to put into them."""

import hashlib
import time
from collections.abc import Callable

from service.raster.page import Kind
from service.registered.files import DocumentFiles
from service.registered.store import DocumentKey, DocumentStore, Manifest, new_version

REPORT = DocumentKey(tenant=b"", id="report")
OLD, NEW = b"old bytes", b"new bytes"


def open_store(url: str, clock: Callable[[], float] = time.monotonic) -> DocumentStore:
    return DocumentStore(DocumentFiles(url), clock=clock)


def manifest_of(data: bytes, id: str = "report") -> Manifest:
    return Manifest(
        id=id,
        version=new_version(),
        sha256=hashlib.sha256(data).hexdigest(),
        kind=Kind.PDF,
        bytes=len(data),
        page_count=3,
        is_paged=True,
        created=1_700_000_000,
    )


def put(store: DocumentStore, data: bytes, key: DocumentKey = REPORT) -> Manifest:
    manifest = manifest_of(data, key.id)
    store.put(key, manifest, data)
    return manifest
