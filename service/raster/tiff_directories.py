"""Walks the directories of a TIFF file and tells which of them are pages. Reads two tags of each; Pillow does the rest.

Pillow cannot tell, because it must set a directory up before it shows its tags, and it knows no transparency masks.
"""

import struct
from dataclasses import dataclass

from service.raster.page import MAX_FRAMES, RasterFailure

_NEW_SUBFILE_TYPE = 254
_SUBFILE_TYPE = 255
_REDUCED_COPY_BIT = 1
_MASK_BIT = 4
_OLD_REDUCED_COPY = 2
_FORMATS = {3: "H", 16: "Q"}  # of values by their type, where it is not a number of 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The sizes in which a file counts: 32-bit offsets in TIFF, 64-bit offsets in BigTIFF."""

    order: str  # of bytes, as `struct` writes it
    count: str  # of the entries of a directory
    offset: str
    entry_bytes: int
    first_link_at: int


def page_directories(data: bytes) -> list[int]:
    """The places (from 0) of the pages in the file's chain of directories; never empty.

    Reduced copies and transparency masks are no pages. If all directories are such, their marks mean nothing, and all count.

    Raises: RasterFailure, codes corrupt_image (the chain leaves the file or runs in a circle), too_many_pages.
    """
    try:
        are_pages = _walk(data, _layout(data))
    except struct.error as error:
        raise RasterFailure("corrupt_image") from error
    pages = [place for place, is_page in enumerate(are_pages) if is_page]
    return pages or list(range(len(are_pages)))


def _layout(data: bytes) -> _Layout:
    order = "<" if data.startswith(b"II") else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return _Layout(order=order, count="Q", offset="Q", entry_bytes=20, first_link_at=8)
    return _Layout(order=order, count="H", offset="I", entry_bytes=12, first_link_at=4)


def _walk(data: bytes, layout: _Layout) -> list[bool]:
    """For each directory, whether it is a page."""
    are_pages: list[bool] = []
    seen: set[int] = set()
    (start,) = struct.unpack_from(layout.order + layout.offset, data, layout.first_link_at)
    while start:
        if start in seen:
            raise RasterFailure("corrupt_image")
        if len(are_pages) == MAX_FRAMES:
            raise RasterFailure("too_many_pages")
        seen.add(start)
        (entries,) = struct.unpack_from(layout.order + layout.count, data, start)
        first_entry = start + struct.calcsize(layout.order + layout.count)
        after_entries = first_entry + entries * layout.entry_bytes
        if after_entries > len(data):
            raise RasterFailure("corrupt_image")
        are_pages.append(_is_page(data, range(first_entry, after_entries, layout.entry_bytes), layout))
        (start,) = struct.unpack_from(layout.order + layout.offset, data, after_entries)
    if not are_pages:
        raise RasterFailure("corrupt_image")
    return are_pages


def _is_page(data: bytes, entries: range, layout: _Layout) -> bool:
    for entry in entries:
        tag, kind = struct.unpack_from(layout.order + "HH", data, entry)
        if tag > _SUBFILE_TYPE:
            break  # the entries are sorted by tag
        value_at = entry + (12 if layout.offset == "Q" else 8)
        (value,) = struct.unpack_from(layout.order + _FORMATS.get(kind, "I"), data, value_at)
        if tag == _NEW_SUBFILE_TYPE and value & (_REDUCED_COPY_BIT | _MASK_BIT):
            return False
        if tag == _SUBFILE_TYPE and value == _OLD_REDUCED_COPY:
            return False
    return True
