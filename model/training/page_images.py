"""Finds the images of candidate pages, in a folder of images or in the training files of MMDocIR.

A page is identified by its domain, document and page id, because page ids repeat between documents, and document names between
domains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from model.pages.image import to_rgb, upright
from model.training.errors import DataError
from model.training.examples import OpenPage
from model.training.mmdocir import StoredPage
from model.training.parquet_images import ImageColumn, read_columns

_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_PARQUET_SUFFIX = ".parquet"
_FILE_ENDING = "_filter"


class PageImages(Protocol):
    """A collection of page images. The pages that `find` returns can be opened in any thread."""

    def find(self, doc_name: str, page_id: str, *, domain: str) -> OpenPage:
        """The page, which is read only when opened. Raises: DataError if there is no such page."""
        ...


def find_page_images(paths: Sequence[Path]) -> PageImages:
    """Open one folder of images, or parquet files. Raises: DataError."""
    if len(paths) == 1 and paths[0].is_dir():
        return FolderImages(paths[0])
    if paths and all(path.suffix == _PARQUET_SUFFIX for path in paths):
        return ParquetImages(paths)
    given = ", ".join(map(str, paths)) or "nothing"
    raise DataError(
        f"The page images are {given}; give one folder that exists, or files that end in {_PARQUET_SUFFIX}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An `OpenPage` that reads an image file when called."""

    path: Path

    def __call__(self) -> Image.Image:
        try:
            with Image.open(self.path) as image:
                image.load()  # load now: an image that needs no conversion still reads from the file
                return to_rgb(upright(image))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{self.path} cannot be read as an image ({type(error).__name__}). Save it again."
            ) from error


class FolderImages:
    """Images in files `FOLDER/<doc_name>/<page_id>.png` (or .jpg, .webp, .tif) or `FOLDER/<page_id>.png`.

    A numeric page id is looked up only in the folder of its document, because all documents have the same page numbers.
    """

    def __init__(self, folder: Path) -> None:
        """List the files of the folder. Raises: DataError for a folder without images, or with two images of one page."""
        self._folder = folder
        self._files: dict[str, ImageFile] = {}
        for path in _image_files(folder):
            self._add(path.relative_to(folder).with_suffix("").as_posix(), path)
        if not self._files:
            raise DataError(f"{folder} holds no page images; they must end in {', '.join(sorted(_SUFFIXES))}.")

    def _add(self, name: str, path: Path) -> None:
        other = self._files.setdefault(name, ImageFile(path=path))
        if other.path != path:
            raise DataError(f"{other.path} and {path} are both images of page {name}. Keep one of them.")

    def find(self, doc_name: str, page_id: str, *, domain: str) -> OpenPage:
        """The image of the page; `domain` is not used. Raises: DataError."""
        names = [f"{doc_name}/{page_id}"] if page_id.isdecimal() else [f"{doc_name}/{page_id}", page_id]
        for name in names:
            if name in self._files:
                return self._files[name]
        raise DataError(f"{self._folder} has no image {' or '.join(f'{name}.png' for name in names)} (or .jpg, …)")


def _image_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES and path.is_file())


class ParquetImages:
    """The training pages of MMDocIR: files `<domain>_filter.parquet` with the columns `file_name`, `page` and `image`."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Index the rows by document, page and domain. Raises: DataError."""
        self._rows: dict[tuple[str, str], dict[str, StoredPage]] = {}  # by document and page, then by domain
        for path in files:
            self._add(path, domain=path.stem.removesuffix(_FILE_ENDING).casefold())

    def _add(self, path: Path, *, domain: str) -> None:
        images = ImageColumn.of(path, "image")
        columns = read_columns(path, ["file_name", "page"])
        for row, key in enumerate(zip(map(str, columns["file_name"]), map(str, columns["page"]), strict=True)):
            self._rows.setdefault(key, {})[domain] = StoredPage(images=images, row=row)

    def find(self, doc_name: str, page_id: str, *, domain: str) -> OpenPage:
        """The page from the file of the domain, else from the first file that has it. Raises: DataError."""
        by_domain = self._rows.get((doc_name, page_id))
        if by_domain is None:
            raise DataError(f"no page file holds page {page_id} of {doc_name}")
        return by_domain.get(domain.casefold()) or next(iter(by_domain.values()))
