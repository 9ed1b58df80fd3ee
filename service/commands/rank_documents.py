"""Files to documents for `ziprerank rank`: read and recognised as the service does with those that it is sent."""

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from service.commands.rank_job import ExitCode, RankError, file_size, printable, unreadable_file
from service.documents.gather import gather
from service.documents.selection import PageSelection
from service.documents.sources import Source
from service.errors import DocumentNotFoundError
from service.raster.pool import RasterLimits
from service.records import QueryDocument, Upload
from service.settings import Settings

TENANT = b""
_MAX_FILE_BYTES = 1 << 30
_DOCUMENT_SECONDS = 600.0  # for all pages of one file; the limit of a page is the service's


def raster_limits_for_files(settings: Settings) -> RasterLimits:
    """The service's limits, except that a user's own long document may take its time."""
    return RasterLimits(
        processes=settings.rasterizer_processes,
        max_image_pixels=settings.max_image_pixels,
        on_degraded_page=settings.on_degraded_page,
        document_seconds=_DOCUMENT_SECONDS,
    )


def read_uploads(files: Sequence[Path], selections: Sequence[str | None]) -> tuple[Upload, ...]:
    """The files as documents of a query, with their bytes in memory. Raises: RankError."""
    for file in files:
        if (size := file_size(file)) > _MAX_FILE_BYTES:
            raise RankError(
                ExitCode.DOCUMENT, f"{printable(file)}: {size} bytes and the limit is {_MAX_FILE_BYTES}. Split it."
            )
    return tuple(_read_upload(file, pages) for file, pages in zip(files, selections, strict=True))


def _read_upload(file: Path, pages: str | None) -> Upload:
    try:
        content = bytearray(file.read_bytes())
    except OSError as error:
        raise unreadable_file(file, error) from error
    return Upload(name=str(file), content=content, kind=None, pages=pages, label=file.name)


async def gather_uploads(uploads: Sequence[QueryDocument], *, threads: Executor) -> list[Source]:
    """A source per file; no document is opened. Raises: see `gather`."""
    return await gather(
        uploads,
        tenant=TENANT,
        registered=_NoRegisteredDocuments(),
        max_file_bytes=_MAX_FILE_BYTES,
        threads=threads,
    )


class _NoRegisteredDocuments:
    """The registered documents of a command, which has none."""

    def find_source(self, id: str, pages: PageSelection | None, *, tenant: bytes) -> Source:
        raise DocumentNotFoundError("document_not_found", f"{id}: there are no registered documents here.")
