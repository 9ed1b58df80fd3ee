"""Rebuilds a PNG file from the chunks that its picture needs, for files that Pillow refuses.

A wrong checksum in a chunk without pixels costs nothing, and neither does a missing end. Rows that are missing at the end
become white paper, which the caller must tell.
"""

import struct
import zlib
from dataclasses import dataclass

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PALETTE_TYPE = 3
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced file: first column, first row, step of columns, step of rows."""
_MAX_PROFILE_BYTES = 1 << 20  # unpacked; Pillow's own limit
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A PNG file without damage, and whether pixels are missing or uncertain in it."""

    data: bytes
    lacks_pixels: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    name: bytes
    body: bytes
    is_sound: bool  # whole, and its checksum is right


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    width: int
    height: int
    bits: int  # of a pixel
    has_palette: bool
    is_interlaced: bool

    def data_bytes(self) -> int:
        """Of all rows, unpacked, each with its filter byte."""
        if not self.is_interlaced:
            return self.height * (1 + self.row_bytes(self.width))
        total = 0
        for column, row, column_step, row_step in _PASSES:
            width = -(-(self.width - column) // column_step)
            height = -(-(self.height - row) // row_step)
            if width > 0 and height > 0:
                total += height * (1 + self.row_bytes(width))
        return total

    def row_bytes(self, width: int) -> int:
        return -(-width * self.bits // 8)


def may_lack_pixels(image: Image.Image) -> bool:
    """Whether rows may be missing in a PNG that was decoded without an error: a look that costs next to nothing.

    Pillow leaves the rest of the picture at 0 where the packed data has an end of its own, but too few rows. The last row to be
    filled is one of the last two, by the interlacing.
    """
    last_rows = range(max(0, image.height - 2), image.height)
    return any(not any(image.crop((0, row, image.width, row + 1)).tobytes()) for row in last_rows)


def rebuilt(data: bytes, *, max_pixels: int) -> Rebuilt | None:
    """The file with what its picture needs; None if its header, palette or data is damaged, or less than half of it is there.

    Half of an interlaced picture is not enough: its missing pixels are all over the page.
    """
    chunks = _chunks(data)
    header = _header(chunks[0]) if chunks else None
    if header is None or any(chunk.name == b"PLTE" and not chunk.is_sound for chunk in chunks):
        return None
    packed = b"".join(chunk.body for chunk in chunks if chunk.name == b"IDAT")
    lacks_pixels = any(chunk.name == b"tRNS" and not chunk.is_sound for chunk in chunks)
    if header.width * header.height <= max_pixels:  # else Pillow refuses the size
        rows = _unpacked(packed, most=header.data_bytes())
        if rows is None:
            return None
        if len(rows) < header.data_bytes():
            if header.is_interlaced or 2 * len(rows) < header.data_bytes():
                return None
            packed, lacks_pixels = zlib.compress(_filled_up(rows, header), 1), True
    head = [chunk for chunk in chunks if _is_kept(chunk)]
    body = b"".join(packed_chunk(chunk.name, chunk.body) for chunk in head)
    rebuilt_data = SIGNATURE + body + packed_chunk(b"IDAT", packed) + packed_chunk(b"IEND", b"")
    return Rebuilt(data=rebuilt_data, lacks_pixels=lacks_pixels)


def packed_chunk(name: bytes, body: bytes) -> bytes:
    """The bytes of a chunk: its length, name, body and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _chunks(data: bytes) -> list[_Chunk]:
    """All chunks up to the end, or to where the file is cut off."""
    chunks: list[_Chunk] = []
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        is_sound = checksum == struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
        chunks.append(_Chunk(name=name, body=body, is_sound=is_sound))
        position += 12 + length
        if name == b"IEND":
            break
    return chunks


def _header(chunk: _Chunk) -> _Header | None:
    if chunk.name != b"IHDR" or not chunk.is_sound or len(chunk.body) != 13:
        return None
    width, height, depth, colour_type, _, _, interlacing = struct.unpack(">IIBBBBB", chunk.body)
    if colour_type not in _CHANNELS or depth not in (1, 2, 4, 8, 16) or width == 0 or height == 0:
        return None
    return _Header(
        width=width,
        height=height,
        bits=depth * _CHANNELS[colour_type],
        has_palette=colour_type == _PALETTE_TYPE,
        is_interlaced=interlacing == 1,
    )


def _is_kept(chunk: _Chunk) -> bool:
    """Whether a chunk before the pixels bears on the picture and can be read."""
    match chunk.name:
        case b"IHDR" | b"PLTE" | b"tRNS" | b"eXIf":  # a wrong orientation is worse than one that was changed by mistake
            return True
        case b"sRGB":
            return chunk.is_sound and len(chunk.body) == 1
        case b"gAMA":
            return chunk.is_sound and len(chunk.body) == 4
        case b"cHRM":
            return chunk.is_sound and len(chunk.body) == 32
        case b"iCCP":
            _, _, profile = chunk.body.partition(b"\0")
            return chunk.is_sound and profile[:1] == b"\0" and _unpacks(profile[1:])
        case _:
            return False


def _unpacks(packed: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, _MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return unpacking.eof


def _unpacked(packed: bytes, *, most: int) -> bytearray | None:
    """At most `most` bytes; None if the data is damaged, rather than cut off, before them."""
    unpacking = zlib.decompressobj()
    rows = bytearray()
    try:
        while len(rows) < most and not unpacking.eof and packed:
            rows += unpacking.decompress(packed, min(most - len(rows), _PIECE_BYTES))
            if len(unpacking.unconsumed_tail) == len(packed):
                break
            packed = unpacking.unconsumed_tail
    except zlib.error:
        return None
    return rows


def _filled_up(rows: bytearray, header: _Header) -> bytes:
    """The whole rows, and white ones after them; of a palette, its first colour."""
    row_bytes = header.row_bytes(header.width)
    there = len(rows) // (1 + row_bytes)
    filling = b"\0" + (b"\0" if header.has_palette else b"\xff") * row_bytes
    return bytes(rows[: there * (1 + row_bytes)]) + filling * (header.height - there)
