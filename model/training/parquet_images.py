"""Reads single images from parquet files that are larger than memory.

A parquet file is read by row groups, and public data sets are often one group of gigabytes. The image column of such a file is
copied once, to a second file beside it with a few rows a group; from then on each image costs a few reads. The copy needs
as much disk space again, and memory for a few data pages of the source while it is written (pyarrow: up to 1,024 rows a page).
"""

import logging
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from model.training.errors import DataError

logger = logging.getLogger(__name__)

LARGEST_ROW_GROUP_BYTES = 32 * 2**20
"""Reading one image reads its whole row group, and the last few groups stay in memory."""

_GROUPS_KEPT = 8
_ROWS_OF_A_COPY = 8
_BUFFER_BYTES = 2**20
_ORIGIN = b"copy_of"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageColumn:
    """One column of encoded images. Any thread or process may use it, because each process opens the file for itself."""

    path: Path
    name: str
    row_count: int

    @classmethod
    def of(cls, path: Path, name: str) -> Self:
        """The column in the file, or in a copy with small row groups, written here if the file needs one. Raises: DataError."""
        metadata = _open(path, [name]).metadata
        if _largest_group_bytes(metadata, name) > LARGEST_ROW_GROUP_BYTES:
            path = _copy_in_small_groups(path, name)
        return cls(path=path, name=name, row_count=metadata.num_rows)

    def read(self, row: int) -> bytes:
        """The encoded image in a row, counted from 0. Raises: DataError."""
        value = _reader(self.path, self.name, os.getpid()).read(row)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise DataError(f"{self.path}: `{self.name}` holds no image in row {row}.")
        return data


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Read whole columns into memory, so use it for small ones. Raises: DataError."""
    file = _open(path, names)
    try:
        columns: dict[str, list[Any]] = file.read(columns=list(names)).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {', '.join(names)} cannot be read. Download the file again.") from error
    return columns


def _open(path: Path, names: Sequence[str]) -> Any:
    """The file as a `ParquetFile`. Raises: DataError if it lacks any of the columns `names`."""
    try:
        file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as a parquet file. Download it again.") from error
    if missing := set(names) - set(file.schema_arrow.names):
        found = ", ".join(file.schema_arrow.names)
        raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}; it has {found}.")
    return file


def _largest_group_bytes(metadata: Any, name: str) -> int:
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return max((_column_bytes(group, name) for group in groups), default=0)


def _column_bytes(group: Any, name: str) -> int:
    """The uncompressed size of a column. A column of records is stored as one column for each field."""
    columns = (group.column(index) for index in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] == name)


def _copy_in_small_groups(path: Path, name: str) -> Path:
    """The path of the copy beside the file. Writes the copy if it is missing or out of date."""
    copy = path.with_name(f"{path.stem}.{name}.small_groups.parquet")
    status = path.stat()
    origin = f"{path.name} {status.st_size} {status.st_mtime_ns}".encode()
    if not (copy.exists() and (_open(copy, [name]).schema_arrow.metadata or {}).get(_ORIGIN) == origin):
        logger.info("%s has large row groups; copying its images once to %s", path, copy)
        try:
            _write_copy(path, copy, name, origin)
        except OSError as error:
            raise DataError(
                f"{copy} cannot be written ({type(error).__name__}). Free some disk space, or rewrite {path.name} with row "
                f"groups of at most {LARGEST_ROW_GROUP_BYTES >> 20} MiB."
            ) from error
    return copy


def _write_copy(path: Path, copy: Path, name: str, origin: bytes) -> None:
    unfinished = copy.with_name(f"{copy.name}.{os.getpid()}.unfinished")
    file = _open(path, [name])
    schema = pa.schema([file.schema_arrow.field(name)], metadata={_ORIGIN: origin})
    try:
        with pq.ParquetWriter(unfinished, schema, compression="none", use_dictionary=False) as writer:
            for batch in file.iter_batches(batch_size=_ROWS_OF_A_COPY, columns=[name], use_threads=False):
                writer.write_batch(batch.cast(schema))
        unfinished.replace(copy)
        _reader.cache_clear()  # a cached reader may have the older copy open
    finally:
        unfinished.unlink(missing_ok=True)


@lru_cache(maxsize=16)
def _reader(path: Path, name: str, process: int) -> "_GroupReader":
    """A cached reader. `process` is in the key because a child process must not share an open file with its parent."""
    return _GroupReader(path, name)


class _GroupReader:
    """Reads values by row. Caches the last row groups, because the candidates of a question are mostly from one document."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._file = _open(path, [name])
        metadata = self._file.metadata
        counts = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._starts = list(accumulate(counts, initial=0))
        self._lock = Lock()
        self._read_group = lru_cache(maxsize=_GROUPS_KEPT)(self._read_group_from_file)

    def read(self, row: int) -> Any:
        if not 0 <= row < self._starts[-1]:
            raise DataError(f"{self._path}: there is no row {row}; the file has {self._starts[-1]} rows.")
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            values = self._read_group(group)
        return values[row - self._starts[group]].as_py()

    def _read_group_from_file(self, group: int) -> Any:
        try:
            return self._file.read_row_group(group, columns=[self._name], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path}: row group {group} cannot be read. Download the file again.") from error
