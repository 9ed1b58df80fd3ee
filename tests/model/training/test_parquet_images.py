"""Single rows out of files whose row groups are small, and out of files whose only row group is the file."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.training import parquet_images
from model.training.errors import DataError
from model.training.parquet_images import ImageColumn, read_columns

IMAGES = [f"image {row}".encode() for row in range(20)]


def write(path: Path, images: list[Any] = IMAGES, *, rows_a_group: int = 1000) -> Path:
    table = pa.table({"page": range(len(images)), "image": images, "text": ["long"] * len(images)})
    pq.write_table(table, path, row_group_size=rows_a_group)
    return path


def copies(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "small_groups" in path.name]


@pytest.mark.parametrize("rows_a_group", [1, 3, 7, 1000])
def test_every_row_is_found_in_any_order(tmp_path: Path, rows_a_group: int) -> None:
    column = ImageColumn.of(write(tmp_path / "a.parquet", rows_a_group=rows_a_group), "image")
    assert column.row_count == 20
    assert [column.read(row) for row in reversed(range(20))] == IMAGES[::-1]
    assert copies(tmp_path) == []


def test_hugging_face_images_are_their_bytes(tmp_path: Path) -> None:
    images = [{"bytes": data, "path": None} for data in IMAGES]
    column = ImageColumn.of(write(tmp_path / "a.parquet", images), "image")
    assert column.read(3) == b"image 3"


@pytest.mark.parametrize("images", [IMAGES, [{"bytes": data, "path": "x.png"} for data in IMAGES]])
def test_a_large_row_group_is_copied_once_into_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, images: list[Any]
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(parquet_images, "LARGEST_ROW_GROUP_BYTES", 100)
    path = write(tmp_path / "a.parquet", images)
    for _ in range(2):
        column = ImageColumn.of(path, "image")
        assert [column.read(row) for row in (19, 0, 8)] == [b"image 19", b"image 0", b"image 8"]
    assert copies(tmp_path) == ["a.image.small_groups.parquet"]
    assert [message for message in caplog.messages if "copying its images once" in message] == caplog.messages[:1]
    metadata = pq.ParquetFile(column.path).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [8, 8, 4]


def test_a_copy_of_a_file_that_has_changed_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_images, "LARGEST_ROW_GROUP_BYTES", 100)
    first = ImageColumn.of(write(tmp_path / "a.parquet"), "image")
    assert first.read(0) == b"image 0"
    os.utime(write(tmp_path / "a.parquet", [b"new " + data for data in IMAGES]), ns=(1, 1))
    second = ImageColumn.of(tmp_path / "a.parquet", "image")
    assert second.path == first.path
    assert second.read(0) == b"new image 0"


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    column = ImageColumn.of(write(tmp_path / "a.parquet", rows_a_group=2), "image")
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(column.read, list(range(20)) * 5)) == IMAGES * 5


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [b"x", None])
    column = ImageColumn.of(path, "image")
    with pytest.raises(DataError, match=r"a\.parquet: `image` holds no image in row 1"):
        column.read(1)
    with pytest.raises(DataError, match=r"there is no row 2; the file has 2 rows"):
        column.read(2)
    with pytest.raises(DataError, match=r"lacks the columns picture; it has page, image, text"):
        ImageColumn.of(path, "picture")
    with pytest.raises(DataError, match="does not exist"):
        ImageColumn.of(tmp_path / "none.parquet", "image")


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        read_columns(tmp_path / "a.parquet", ["page"])
