"""Registered documents that survive restarts and kills: versions of bytes, and a manifest that names the current one.

    <store>/<owner>/<id in base 32>/manifest.json             names the current version; written once a version
                                    <version>.document        its bytes
                                    <version>.outcome.json    the outcome of processing; absent while it goes on
                                    <version>.until-1764201600  empty: the document expires then, in seconds since 1970

A version's bytes are written first, then the manifest, in one piece, then the bytes of the version before are deleted. So a
kill at any moment leaves the old or the new version whole, and several processes may share a store without locks: manifests
are never changed in place, and the outcome of processing is stored beside its version. Everything here blocks: call it in
threads.
"""

import base64
import hashlib
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from service.errors import InternalError
from service.raster.page import Kind
from service.registered.files import DocumentFiles

_MANIFEST = "manifest.json"
_UNTIL = ".until-"
_EXPIRY_NAME = re.compile(rf"[0-9a-f]{{32}}{re.escape(_UNTIL)}[0-9]{{1,15}}")
_SHARED = "shared"  # the owner's folder where all callers share their documents
_LEFTOVER_SECONDS = 3600.0  # younger files may belong to a version that is just being written
_RECENT_SECONDS = 5.0
_RECENT_MANIFESTS = 4096
_READS_AT_ONCE = 16

logger = logging.getLogger(__name__)


class DocumentReplaced(Exception):
    """The version was replaced or deleted after its manifest was read. Read the manifest again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentKey:
    """A document's id within a tenant."""

    tenant: bytes  # its owner; empty where all callers are one tenant
    id: str

    @property
    def folder(self) -> str:
        """Ids are written in base 32: `.` and `..` are ids, and some file systems take `Report` for `report`."""
        return f"{_owner_folder(self.tenant)}/{base64.b32hexencode(self.id.encode()).decode().rstrip('=').lower()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts about a version, written when it is put and never changed."""

    id: str
    version: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    sha256: str  # of the bytes, hex
    kind: Kind
    bytes: int
    page_count: int
    is_paged: bool
    created: int  # seconds since 1970
    expires: int | None = None  # seconds since 1970; from then on there is no such document. None: it stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error for which a version's pages could not all be processed."""

    code: str
    message: str  # without the page
    page: int | None  # 1-based


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a version's processing."""

    failure: Failure | None = None

    @property
    def state(self) -> Literal["ready", "failed"]:
        return "failed" if self.failure else "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document's current version, and the state of its processing."""

    manifest: Manifest
    outcome: Outcome | None  # None: still to be processed

    @property
    def state(self) -> Literal["processing", "ready", "failed"]:
        return self.outcome.state if self.outcome else "processing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of a tenant's documents, sorted by id."""

    documents: tuple[StoredDocument, ...]
    next: str | None  # the id after which the next page begins; None: this is the last


_MANIFESTS = TypeAdapter(Manifest)
_OUTCOMES = TypeAdapter(Outcome)
_Record = TypeVar("_Record")


class DocumentStore:
    """Thread-safe. Every method raises UnavailableError as `DocumentFiles` does."""

    def __init__(
        self,
        files: DocumentFiles,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._wall_clock = wall_clock
        self._recent = _RecentManifests(0.0 if files.is_local else _RECENT_SECONDS, clock)

    def put(self, key: DocumentKey, manifest: Manifest, data: bytes) -> None:
        """Make `data` the document's bytes. `manifest` has a version of its own, from `new_version`."""
        replaced = self._surviving_manifest(key)
        if manifest.expires is not None:
            self._files.write(f"{key.folder}/{manifest.version}{_UNTIL}{manifest.expires}", b"")
        self._files.write(_document_path(key, manifest.version), data)
        self._files.write(_manifest_path(key), _MANIFESTS.dump_json(manifest))
        self._recent.forget(key)
        if replaced is not None:
            self._delete_version(key, replaced)

    def delete(self, key: DocumentKey) -> bool:
        """Whether there was such a document."""
        is_there = self._files.read(_manifest_path(key)) is not None
        deleted = self._surviving_manifest(key)
        if deleted is not None and self._has_expired(deleted):
            is_there = False
        self._files.delete(_manifest_path(key))
        self._recent.forget(key)
        if deleted is not None:
            self._delete_version(key, deleted)
        self._files.delete_if_empty(key.folder)
        return is_there

    def delete_expired(self, key: DocumentKey) -> None:
        """Delete the document if its time is over; nothing happens to one that was put again meanwhile."""
        manifest = self._surviving_manifest(key)
        if manifest is not None and self._has_expired(manifest):
            self.delete(key)

    def expiries(self) -> Sequence[tuple[int, DocumentKey]]:
        """When documents of all tenants expire, in seconds since 1970. By the names of files alone: nothing is read."""
        return [
            (int(name.rpartition("-")[2]), key)
            for key, names in self._names_by_key().items()
            for name in names
            if _EXPIRY_NAME.fullmatch(name)
        ]

    def manifest(self, key: DocumentKey) -> Manifest | None:
        """Of the current version, read from the file again each time, from an object store every 5 s.

        None: there is no such document, or its time is over.

        Raises: InternalError where it is damaged.
        """
        return self._unless_expired(self._recent.get(key) or self._current_manifest(key))

    def find(self, key: DocumentKey) -> StoredDocument | None:
        """The manifest and the outcome of processing, both as they are now: a document that another process deleted is gone.

        Raises: InternalError where one of them is damaged.
        """
        manifest = self._unless_expired(self._current_manifest(key))
        if manifest is None:
            return None
        outcome = self._files.read(_outcome_path(key, manifest.version))
        return StoredDocument(manifest=manifest, outcome=_parse(_OUTCOMES, outcome, key) if outcome else None)

    def read(self, key: DocumentKey, manifest: Manifest) -> bytes:
        """The bytes of exactly this version. Raises: DocumentReplaced; InternalError where they are damaged."""
        data = self._files.read(_document_path(key, manifest.version))
        if data is not None and hashlib.sha256(data).hexdigest() == manifest.sha256:
            return data
        self._recent.forget(key)
        current = self.manifest(key)
        if current is None or current.version != manifest.version:
            raise DocumentReplaced(key.id)
        raise _damaged(key)

    def finish(self, key: DocumentKey, version: str, outcome: Outcome) -> None:
        """Store the outcome of a version's processing."""
        self._files.write(_outcome_path(key, version), _OUTCOMES.dump_json(outcome))

    def list(self, tenant: bytes, *, after: str, limit: int) -> Listing:
        """The tenant's documents with ids above `after`, at most `limit`; fewer where some are damaged or deleted meanwhile."""
        names = self._files.names(_owner_folder(tenant))
        ids = sorted(id for name in names if (id := _id_of(name)) is not None and id > after)
        keys = [DocumentKey(tenant=tenant, id=id) for id in ids[:limit]]
        with ThreadPoolExecutor(_READS_AT_ONCE) as threads:
            documents = tuple(document for document in threads.map(self._intact, keys) if document is not None)
        return Listing(documents=documents, next=ids[limit - 1] if len(ids) > limit else None)

    def unfinished(self) -> Sequence[DocumentKey]:
        """The documents of all tenants whose processing has not ended, without the damaged ones."""
        keys = [key for key, names in self._names_by_key().items() if _has_open_version(names)]
        return [key for key in keys if (document := self._intact(key)) and document.outcome is None]

    def sweep(self) -> None:
        """Delete files left by killed processes: those of no current version that are over an hour old."""
        for key, names in self._names_by_key().items():
            if _is_tidy(names):
                continue
            try:
                manifest = self._read_manifest(key)
            except InternalError:  # without the manifest, current files cannot be distinguished from leftovers
                continue
            current = {_MANIFEST, *(_version_names(manifest) if manifest else ())}
            for path in (f"{key.folder}/{name}" for name in names - current):
                if self._files.age_seconds(path) > _LEFTOVER_SECONDS:
                    self._files.delete(path)
            self._files.delete_if_empty(key.folder)

    def _names_by_key(self) -> dict[DocumentKey, set[str]]:
        """The file names of each document. Files that no store wrote are left out."""
        names: dict[DocumentKey, set[str]] = {}
        for path in self._files.paths():
            match path.split("/"):
                case [owner, folder, name] if (key := _key_of(owner, folder)) is not None:
                    names.setdefault(key, set()).add(name)
        return names

    def _intact(self, key: DocumentKey) -> StoredDocument | None:
        with suppress(InternalError):  # which is logged
            return self.find(key)
        return None

    def _current_manifest(self, key: DocumentKey) -> Manifest | None:
        changes = self._recent.changes
        manifest = self._read_manifest(key)
        if manifest is None:
            self._recent.drop(key)
        else:
            self._recent.remember(key, manifest, changes=changes)
        return manifest

    def _read_manifest(self, key: DocumentKey) -> Manifest | None:
        text = self._files.read(_manifest_path(key))
        if text is None:
            return None
        manifest = _parse(_MANIFESTS, text, key)
        if manifest.id != key.id:
            raise _damaged(key)
        return manifest

    def _surviving_manifest(self, key: DocumentKey) -> Manifest | None:
        """None also where it is damaged, so that a damaged document can be replaced and deleted."""
        with suppress(InternalError):
            return self._read_manifest(key)
        return None

    def _delete_version(self, key: DocumentKey, manifest: Manifest) -> None:
        for name in _version_names(manifest):
            self._files.delete(f"{key.folder}/{name}")

    def _unless_expired(self, manifest: Manifest | None) -> Manifest | None:
        return None if manifest is not None and self._has_expired(manifest) else manifest

    def _has_expired(self, manifest: Manifest) -> bool:
        return manifest.expires is not None and self._wall_clock() >= manifest.expires


def new_version() -> str:
    """A name that no version has had before."""
    return uuid.uuid4().hex


class _RecentManifests:
    """Manifests of the last few seconds, so that a warm request does not wait for an object store. Thread-safe."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._manifests: OrderedDict[DocumentKey, tuple[Manifest, float]] = OrderedDict()
        self.changes = 0  # by this process, of any manifest

    def get(self, key: DocumentKey) -> Manifest | None:
        with self._lock:
            manifest, read_at = self._manifests.get(key, (None, 0.0))
            return manifest if self._clock() - read_at < self._seconds else None

    def remember(self, key: DocumentKey, manifest: Manifest, *, changes: int) -> None:
        """changes: their number before the manifest was read. One that may have been deleted meanwhile is not kept."""
        if not self._seconds:
            return
        with self._lock:
            if changes != self.changes:
                return
            self._manifests.pop(key, None)
            self._manifests[key] = (manifest, self._clock())
            if len(self._manifests) > _RECENT_MANIFESTS:
                self._manifests.popitem(last=False)

    def forget(self, key: DocumentKey) -> None:
        """After a change by this process: also a manifest that another thread has read and not remembered yet is not kept."""
        with self._lock:
            self.changes += 1
            self._manifests.pop(key, None)

    def drop(self, key: DocumentKey) -> None:
        """After a change by another process."""
        with self._lock:
            self._manifests.pop(key, None)


def _parse(records: TypeAdapter[_Record], text: bytes, key: DocumentKey) -> _Record:
    try:
        return records.validate_json(text)
    except ValidationError as error:
        raise _damaged(key) from error


def _damaged(key: DocumentKey) -> InternalError:
    logger.error("the stored document in %s is damaged", key.folder)
    message = f"The stored document {key.id!r} is damaged. Upload it again, or delete it."
    return InternalError("document_damaged", message)


def _manifest_path(key: DocumentKey) -> str:
    return f"{key.folder}/{_MANIFEST}"


def _document_path(key: DocumentKey, version: str) -> str:
    return f"{key.folder}/{version}.document"


def _outcome_path(key: DocumentKey, version: str) -> str:
    return f"{key.folder}/{version}.outcome.json"


def _version_names(manifest: Manifest) -> tuple[str, ...]:
    version = manifest.version
    names = f"{version}.document", f"{version}.outcome.json"
    return names if manifest.expires is None else (*names, f"{version}{_UNTIL}{manifest.expires}")


def _has_open_version(names: set[str]) -> bool:
    """Whether there are bytes without an outcome, of the current version or of a leftover."""
    versions = [name.removesuffix(".document") for name in names if name.endswith(".document")]
    return any(f"{version}.outcome.json" not in names for version in versions)


def _is_tidy(names: set[str]) -> bool:
    """Whether there are a manifest and files of one version only."""
    return _MANIFEST in names and len({name.partition(".")[0] for name in names - {_MANIFEST}}) == 1


def _owner_folder(tenant: bytes) -> str:
    return tenant.hex() or _SHARED


def _key_of(owner_folder: str, folder: str) -> DocumentKey | None:
    """The document that two folder names stand for, None for names that no store wrote."""
    id = _id_of(folder)
    with suppress(ValueError):
        if id is not None:
            return DocumentKey(tenant=bytes.fromhex("" if owner_folder == _SHARED else owner_folder), id=id)
    return None


def _id_of(folder: str) -> str | None:
    """The id that a folder name stands for, None for a name that no store wrote."""
    padding = "=" * (-len(folder) % 8)
    with suppress(ValueError):
        return base64.b32hexdecode(folder.upper() + padding).decode()
    return None
