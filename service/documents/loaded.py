"""Pages of a request's documents, as the loader hands them on."""

from collections.abc import Mapping
from dataclasses import dataclass

from model import PreparedPage
from service.degraded_reason import DegradedReason
from service.errors import ServiceError
from service.raster.page import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPage:
    """A page of a request's document, ready for the model."""

    document_index: int
    number: int | None  # 1-based; None for a single image
    label: str  # the document's, with #page=N where it has pages
    prepared: PreparedPage
    degraded_reasons: tuple[DegradedReason, ...]  # kinds of content that are missing from the page
    document_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPage:
    """A selected page that is not loaded, or not yet."""

    document_index: int
    number: int | None  # 1-based; None for a single image
    label: str  # the document's, with #page=N where it has pages
    document_sha256: str
    kind: Kind | None  # of the document; None where it was not read, because all its pages are in the cache
    prepared: PreparedPage | None  # from the cache
    degraded_reasons: tuple[DegradedReason, ...] = ()  # as far as they are known


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The selected pages of all documents, and the time that they took."""

    pages: tuple[LoadedPage, ...]  # in document order, then in the order of the selection
    stage_seconds: Mapping[str, float]  # wall time of fetch, render, decode, prepare; only stages with work
    unloaded: tuple[ListedPage, ...] = ()  # those that follow, for which there was no time
    skipped: tuple[ServiceError, ...] = ()  # errors of the documents and pages that were left out, in their order
