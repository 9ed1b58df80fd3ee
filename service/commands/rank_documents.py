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
        document_seconds=_DOCUMENT_SECONDS,
    )


async def read_documents(files: Sequence[Path], selections: Sequence[str | None], *, threads: Executor) -> list[Source]:
    """A source per file, with its bytes in memory; no document is opened. Raises: RankError, and see `gather`."""
    for file in files:
        if (size := file_size(file)) > _MAX_FILE_BYTES:
            raise RankError(
                ExitCode.DOCUMENT, f"{printable(file)}: {size} bytes and the limit is {_MAX_FILE_BYTES}. Split it."
            )
    uploads = [_read_upload(file, pages) for file, pages in zip(files, selections, strict=True)]
    return await gather(
        uploads,
        tenant=TENANT,
        registered=_NoRegisteredDocuments(),
        max_file_bytes=_MAX_FILE_BYTES,
        threads=threads,
    )


def _read_upload(file: Path, pages: str | None) -> QueryDocument:
    try:
        content = bytearray(file.read_bytes())
    except OSError as error:
        raise unreadable_file(file, error) from error
    return Upload(name=str(file), content=content, kind=None, pages=pages, label=file.name)


class _NoRegisteredDocuments:
    """The registered documents of a command, which has none."""

    def find_source(self, id: str, pages: PageSelection | None, *, tenant: bytes) -> Source:
        raise DocumentNotFoundError("document_not_found", f"{id}: there are no registered documents here.")
