"""A registered document as a source of pages: its facts from the manifest, its bytes from the store."""

from dataclasses import dataclass

from service.documents.selection import PageSelection
from service.documents.sources import Content
from service.errors import DocumentNotFoundError, UnavailableError
from service.raster.page import DocumentOutline, Kind
from service.registered.store import DocumentKey, DocumentReplaced, DocumentStore, Manifest

_READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredSource:
    """Pages of the document's current version. `read` returns a later version where this one was replaced meanwhile."""

    store: DocumentStore
    key: DocumentKey
    manifest: Manifest
    pages: PageSelection | None

    @property
    def label(self) -> str:
        return self.manifest.id

    @property
    def sha256(self) -> str:
        return self.manifest.sha256

    @property
    def kind(self) -> Kind:
        return self.manifest.kind

    @property
    def outline(self) -> DocumentOutline:
        return outline_of(self.manifest)

    @property
    def is_in_memory(self) -> bool:
        return False

    def read(self) -> Content:
        """Raises: DocumentNotFoundError, where it was deleted meanwhile; InternalError, UnavailableError."""
        manifest = self.manifest
        for _ in range(_READ_ATTEMPTS):
            try:
                return content_of(manifest, self.store.read(self.key, manifest))
            except DocumentReplaced:
                manifest = require_manifest(self.store, self.key)
        message = (
            f"The registered document {self.key.id!r} is replaced too often to be read. Send the request again later."
        )
        raise UnavailableError("store_unavailable", message, retry_after_seconds=5)


def require_manifest(store: DocumentStore, key: DocumentKey) -> Manifest:
    """Blocks. Raises: DocumentNotFoundError, InternalError, UnavailableError."""
    manifest = store.manifest(key)
    if manifest is None:
        raise not_found(key)
    return manifest


def content_of(manifest: Manifest, data: bytes) -> Content:
    """A version that has been read."""
    return Content(data=data, sha256=manifest.sha256, kind=manifest.kind, outline=outline_of(manifest))


def outline_of(manifest: Manifest) -> DocumentOutline:
    return DocumentOutline(page_count=manifest.page_count, is_paged=manifest.is_paged)


def not_found(key: DocumentKey) -> DocumentNotFoundError:
    message = f"There is no registered document {key.id!r}. Register it first, or send the document itself."
    return DocumentNotFoundError("document_not_found", message, field="id")
