"""Sources of documents: where the bytes of a document come from, and the facts that are known before they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.documents.other_formats import other_format
from service.documents.selection import PageSelection
from service.errors import ServiceError, UnsupportedMediaTypeError
from service.raster.page import DocumentOutline, Kind

_PDF_MAGIC_WITHIN = 1024
_SINGLE_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A document that has been read."""

    data: bytes | bytearray  # not changed afterwards
    sha256: str  # of `data`, hex
    kind: Kind
    outline: DocumentOutline | None = None  # None: the document must be opened to learn it


class Source(Protocol):
    """One document, and the pages of it that are wanted.

    The hash, the kind and the outline may be None until the document is read, and those of the content that was read count:
    a registered document may have been replaced meanwhile.
    """

    @property
    def label(self) -> str:
        """Of the document in the answer; the labels of its pages begin with it."""
        ...

    @property
    def pages(self) -> PageSelection | None:
        """None: all pages."""
        ...

    @property
    def sha256(self) -> str | None: ...
    @property
    def kind(self) -> Kind | None: ...
    @property
    def outline(self) -> DocumentOutline | None: ...
    @property
    def is_in_memory(self) -> bool:
        """Whether `read` costs nothing; otherwise its time counts as the stage fetch."""
        ...

    def read(self) -> Content:
        """Called in a thread, and only when a page must be rendered. May block. Raises: ServiceError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySource:
    """A document whose bytes are in memory."""

    label: str
    pages: PageSelection | None
    content: Content

    @property
    def sha256(self) -> str:
        return self.content.sha256

    @property
    def kind(self) -> Kind:
        return self.content.kind

    @property
    def outline(self) -> DocumentOutline | None:
        return self.content.outline

    @property
    def is_in_memory(self) -> bool:
        return True

    def read(self) -> Content:
        return self.content


def loading_stage(sources: Sequence[Source | ServiceError]) -> str:
    """The stage that a request is in while these sources are loaded: decode where all are images, render otherwise."""
    kinds = {source.kind for source in sources if not isinstance(source, ServiceError)}
    return Kind.IMAGE.stage if kinds == {Kind.IMAGE} else Kind.PDF.stage


def require_kind(data: bytes | bytearray) -> Kind:
    """The kind by the first bytes, whatever the client called it.

    Raises: UnsupportedMediaTypeError, which names the format, where it is known, and says what to send instead.
    """
    if is_single_image(data) or data.startswith(_TIFF_MAGIC):
        return Kind.IMAGE
    if b"%PDF-" in data[:_PDF_MAGIC_WITHIN]:
        return Kind.PDF
    found = other_format(data)
    if found is None:
        message = (
            "the document is neither a PDF nor a PNG, JPEG, WebP, TIFF, GIF or BMP image, and its format is not known. "
            "Print or export it to a PDF."
        )
    else:
        message = (
            f"the document is {found.name}, but only PDFs and PNG, JPEG, WebP, TIFF, GIF and BMP images are read. "
            f"{found.remedy}"
        )
    raise UnsupportedMediaTypeError("unsupported_media_type", message)


def is_single_image(data: bytes | bytearray) -> bool:
    """Whether the document has one page by its format: of images, TIFF alone may have several."""
    return data.startswith(_SINGLE_IMAGE_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
