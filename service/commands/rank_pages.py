"""Saves the pages of an answer as PNG files, rendered by the same workers as those that the model saw."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from service.commands.progress import Progress
from service.commands.rank_documents import gather_uploads, raster_limits_for_files, read_uploads
from service.commands.rank_job import ExitCode, RankError, printable, to_rank_error
from service.commands.rank_table import RankedRow
from service.errors import ServiceError
from service.raster.pool import RasterDocument, Rasterizer
from service.settings import Settings

_PAGES_AT_ONCE = 16  # rendered ahead of the writing, up to 3 MB each
_LONGEST_STEM = 50  # characters; with four bytes each a name stays below the 255 bytes that file systems take


def require_empty(folder: Path) -> None:
    """Refuse a folder with files in it, which pages of another answer may be. Raises: RankError."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise RankError(ExitCode.USAGE, f"--save-pages: {printable(folder)} is not empty. Choose a new folder.")
    except OSError as error:
        raise RankError(ExitCode.USAGE, f"--save-pages: {printable(folder)}: {error.strerror}.") from error


def save_ranked_pages(
    rows: Sequence[RankedRow], files: Sequence[Path], folder: Path, settings: Settings, progress: Progress
) -> None:
    """Write one PNG file a row, such as 0001-report-page-7.png. The folder is created. Raises: RankError."""
    progress.begin(f"saving {len(rows)} pages", len(rows))
    pool = Rasterizer(raster_limits_for_files(settings), observe=progress.count_page)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pool.start()
        for index in sorted({row.document_index for row in rows}):
            asyncio.run(
                _save_document([row for row in rows if row.document_index == index], files[index], folder, pool)
            )
    except ServiceError as error:
        raise to_rank_error(error, files) from error
    except OSError as error:
        raise RankError(ExitCode.NOT_RANKED, f"--save-pages: {printable(folder)}: {error.strerror}.") from error
    finally:
        pool.close()


async def _save_document(rows: Sequence[RankedRow], file: Path, folder: Path, pool: Rasterizer) -> None:
    """rows: pages of this file. Raises: RankError, ServiceError, OSError."""
    index = rows[0].document_index
    try:
        with ThreadPoolExecutor(max_workers=1) as threads:
            [source] = await gather_uploads(read_uploads([file], [None]), threads=threads)
    except ServiceError as error:
        raise error.at(document_index=index) from error
    content = source.read()
    document = RasterDocument(
        index=index, data=content.data, sha256=content.sha256, kind=content.kind, outline=content.outline
    )
    for start in range(0, len(rows), _PAGES_AT_ONCE):
        some = rows[start : start + _PAGES_AT_ONCE]
        async with pool.request([document]) as request:
            await request.opened()
            pages = await request.render_all([[row.page or 1 for row in some]])
        for row, page in zip(some, pages, strict=True):
            Image.fromarray(page.pixels).save(folder / file_name(row, file))


def file_name(row: RankedRow, file: Path) -> str:
    """Ranks have leading zeros, so that files sort by rank."""
    page = "" if row.page is None else f"-page-{row.page}"
    return f"{row.rank:04d}-{file.stem[:_LONGEST_STEM]}{page}.png"
