"""Whole files in a local folder or an object store, through fsspec: a file is written entirely or not at all.

Local files get their name by a rename within their folder; fsspec's own commit starts from the system's temporary folder,
which may be another file system, where a rename is a copy. An object store's put is atomic by itself. Everything here
blocks: call it in threads.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.errors import UnavailableError

logger = logging.getLogger(__name__)


class DocumentFiles:
    """Files below one URL, named by paths such as `owner/folder/name`. Thread-safe.

    Every method raises UnavailableError (store_unavailable) where the store cannot be reached, is full or forbids it.
    """

    def __init__(self, url: str) -> None:
        # A cached listing would hide the files that other processes write.
        self._file_system, root = url_to_fs(url, use_listings_cache=False)
        self._root = root.rstrip("/")
        self.is_local = isinstance(self._file_system, LocalFileSystem)
        self._replace = _replace_local_file if self.is_local else self._file_system.pipe_file

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file. On return it survives a kill, and locally a loss of power too."""
        with _translated():
            self._replace(self._full(path), data)

    def read(self, path: str) -> bytes | None:
        """None: there is no such file."""
        with _translated(), suppress(FileNotFoundError):
            return bytes(self._file_system.cat_file(self._full(path)))
        return None

    def delete(self, path: str) -> None:
        """A missing file is no error."""
        with _translated(), suppress(FileNotFoundError):
            self._file_system.rm_file(self._full(path))

    def delete_if_empty(self, folder: str) -> None:
        """Object stores have no folders to delete."""
        if self.is_local:
            with suppress(OSError):
                os.rmdir(self._full(folder))

    def names(self, folder: str) -> list[str]:
        """Of the files and folders directly in it, in no order; none where there is no such folder."""
        with _translated(), suppress(FileNotFoundError):
            paths: Sequence[str] = self._file_system.ls(self._full(folder), detail=False)
            return [path.rstrip("/").rpartition("/")[2] for path in paths]
        return []

    def paths(self) -> list[str]:
        """Of all files, in no order."""
        with _translated(), suppress(FileNotFoundError):
            return [path[len(self._root) :].lstrip("/") for path in self._file_system.find(self._root)]
        return []

    def age_seconds(self, path: str) -> float:
        """Since the last write; 0 for a file that is gone."""
        with _translated(), suppress(FileNotFoundError):
            return time.time() - float(self._file_system.modified(self._full(path)).timestamp())
        return 0.0

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


@contextmanager
def _translated() -> Iterator[None]:
    """Every kind of store fails with its client library's own exceptions."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        logger.error("the document store failed", exc_info=error)
        message = "The document store cannot be used at the moment. Send the request again later."
        raise UnavailableError("store_unavailable", message, retry_after_seconds=5) from error


def _replace_local_file(path: str, data: bytes) -> None:
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _create_with_folder(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _create_with_folder(path: Path) -> BinaryIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process deleted the folder while it was empty
            return open(path, "xb")


def _sync_folder(folder: Path) -> None:
    """A rename is safe from a loss of power only when the folder is on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
