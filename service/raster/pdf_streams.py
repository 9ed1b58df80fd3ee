# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""Tells whether the streams that MuPDF warns of while it draws a page hold all that the page needs.

The warnings do not name the stream, and a checksum that a producer left out raises the same one as a picture of which half is
missing. So each stream of the page is looked at: an image must hold its samples, and instructions must have their end.

Evidence for the checksum: of 600 flips of one byte in the instructions of real pages, 60 gave no warning but that of the
checksum, and 11 of these pages differ in more than 3 % of their pixels; 24 zeros in an image's data left the number of samples
right and changed 8 to 47 % of the page. So a wrong checksum counts as damage, unless it is zero: then nobody computed it.
Instructions that break off within their compressed data are not judged by what they draw last: of 10,800 cuts of real pages'
instructions at random places, 244 end with a whole operator and with nothing left open.
"""

import io
import zlib
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

import pymupdf
from PIL import Image
from pymupdf import mupdf

from service.raster.cut_off_jpeg import ended

_get = mupdf.ll_pdf_dict_gets
_name = mupdf.ll_pdf_to_name

_MOST_OBJECTS = 5_000
_MOST_BYTES = 64 << 20  # of one stream when unpacked, and of all streams of the page
_MOST_JPEG_PIXELS = 16_000_000
_MOST_MISSING = 0.005  # of an image's samples: 5 rows of a page of 1,024
_PLAIN_FILTERS = frozenset(
    {"FlateDecode", "Fl", "LZWDecode", "LZW", "RunLengthDecode", "RL", "ASCIIHexDecode", "AHx"}
) | {
    "ASCII85Decode",
    "A85",
}
_FLATE = ("FlateDecode", "Fl")
_JPEG = ("DCTDecode", "DCT")
_CHECKED_FONTS = (
    "Type1C",
    "CIDFontType0C",
)  # in which FreeType finds out that glyphs are missing, and MuPDF warns of it
_END_OF_A_FLUSH = b"\0\0\xff\xff"
_CHECKSUM_BYTES = 4


class _Use(Enum):
    """What a page reads a stream for."""

    IMAGE = auto()
    INSTRUCTIONS = auto()
    HINT = auto()  # a colour profile, in whose place its kind of colours is used, or a table for copying text
    OTHER = auto()


def all_hold_what_is_needed(page: Any) -> bool:
    """Whether some streams of this page (a PdfObj) are damaged, and none of those lacks anything that the page shows.

    Uses MuPDF's buffer of warnings, and leaves it empty.
    """
    budget = _MOST_BYTES
    found_damage = False
    for stream, use in _streams(page.m_internal):
        length, warnings = _unpacked_length(stream, budget)
        budget -= length
        if budget <= 0:
            return False
        if warnings:
            found_damage = True
            if not _holds_what_is_needed(stream, use, length, has_wrong_checksum="incorrect data check" in warnings):
                return False
    return found_damage


def _streams(page: Any) -> Iterator[tuple[Any, _Use]]:
    """Every stream that the page's contents, resources and annotations lead to, once."""
    seen: set[int] = set()
    budget = _MOST_OBJECTS
    found = [
        (_get(page, "Contents"), _Use.INSTRUCTIONS),
        (mupdf.ll_pdf_dict_gets_inheritable(page, "Resources"), _Use.OTHER),
    ]
    annotations = _get(page, "Annots")
    for position in range(min(mupdf.ll_pdf_array_len(annotations), budget)):
        found.append((_get(mupdf.ll_pdf_array_get(annotations, position), "AP"), _Use.OTHER))
    while found and budget > 0:
        value, use = found.pop()
        budget -= 1
        if number := mupdf.ll_pdf_to_num(value):
            if number in seen:
                continue
            seen.add(number)
        if mupdf.ll_pdf_is_array(value):
            is_profile = _name(mupdf.ll_pdf_array_get(value, 0)) == "ICCBased"
            for position in range(min(mupdf.ll_pdf_array_len(value), budget)):
                found.append((mupdf.ll_pdf_array_get(value, position), _Use.HINT if is_profile else use))
        elif mupdf.ll_pdf_is_dict(value):
            if mupdf.ll_pdf_is_stream(value):
                yield value, _use_of(value, use)
            for position in range(min(mupdf.ll_pdf_dict_len(value), budget)):
                key = _name(mupdf.ll_pdf_dict_get_key(value, position))
                found.append((mupdf.ll_pdf_dict_get_val(value, position), _use_of_entry(key, use)))


def _use_of_entry(key: str, use: _Use) -> _Use:
    if key in ("ToUnicode", "Metadata"):
        return _Use.HINT
    # The procedures of a font are the entries of its CharProcs, under names of their own.
    return _Use.INSTRUCTIONS if key == "CharProcs" or use is _Use.INSTRUCTIONS else _Use.OTHER


def _use_of(stream: Any, use: _Use) -> _Use:
    """By the stream's own keys where these tell, else by how it was reached."""
    match _name(_get(stream, "Subtype")):
        case "Image":
            return _Use.IMAGE
        case "Form":
            return _Use.INSTRUCTIONS
    is_program = mupdf.ll_pdf_to_int(_get(stream, "FunctionType")) == 4
    is_pattern = mupdf.ll_pdf_to_int(_get(stream, "PatternType")) == 1
    return _Use.INSTRUCTIONS if is_program or is_pattern else use


def _unpacked_length(stream: Any, most: int) -> tuple[int, str]:
    """Of the stream's data behind its filters, counted up to `most` bytes; MuPDF's warnings, or a word for its failure."""
    pymupdf.TOOLS.mupdf_warnings(reset=True)
    try:
        length = mupdf.fz_skip(mupdf.pdf_open_stream(mupdf.PdfObj(mupdf.ll_pdf_keep_obj(stream))), most)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (the engine's errors have no common class)
        return 0, "failed"
    return int(length), str(pymupdf.TOOLS.mupdf_warnings(reset=True))


def _holds_what_is_needed(stream: Any, use: _Use, length: int, *, has_wrong_checksum: bool) -> bool:
    if use is _Use.HINT:
        return True
    filters, raw = _filters(stream), _raw(stream)
    if use is _Use.IMAGE:
        if len(filters) == 1 and filters[0] in _JPEG:
            return _is_whole_jpeg(stream, raw)
        if not _PLAIN_FILTERS.issuperset(filters) or length < (1 - _MOST_MISSING) * _sample_bytes(stream):
            return False
        return not has_wrong_checksum or (filters[0] in _FLATE and _is_complete(raw))
    if _name(_get(stream, "Subtype")) in _CHECKED_FONTS and not has_wrong_checksum:
        return True
    if _get(stream, "FunctionType") is not None and len(raw) == _table_bytes(stream):
        return True
    if filters and filters[0] in _FLATE and _PLAIN_FILTERS.issuperset(filters):
        return _is_complete(raw) or (use is _Use.INSTRUCTIONS and not raw)
    # MuPDF passes data of an unknown filter on as they are; compressed ones are no text, and wrong text raises other warnings.
    return use is _Use.INSTRUCTIONS and len(filters) == 1 and raw.isascii() and b"\0" not in raw


def _filters(stream: Any) -> list[str]:
    value = _get(stream, "Filter")
    if mupdf.ll_pdf_is_array(value):
        return [_name(mupdf.ll_pdf_array_get(value, place)) for place in range(min(mupdf.ll_pdf_array_len(value), 100))]
    return [_name(value)] if mupdf.ll_pdf_is_name(value) else []


def _raw(stream: Any) -> bytes:
    """The stream's data as they are in the file, decrypted."""
    raw = mupdf.pdf_load_raw_stream(mupdf.PdfObj(mupdf.ll_pdf_keep_obj(stream)))
    return bytes(mupdf.fz_buffer_extract(raw))


def _sample_bytes(image: Any) -> int:
    """The length of an image's rows, each of which is filled up to whole bytes."""
    bits = 1 if mupdf.ll_pdf_to_bool(_get(image, "ImageMask")) else mupdf.ll_pdf_to_int(_get(image, "BitsPerComponent"))
    width, height = (mupdf.ll_pdf_to_int(_get(image, key)) for key in ("Width", "Height"))
    return int(-(-width * bits * _components(image) // 8) * height)


def _components(image: Any) -> int:
    space = _get(image, "ColorSpace")
    if space is None:
        return 1
    try:
        return int(mupdf.fz_colorspace_n(mupdf.pdf_load_colorspace(mupdf.PdfObj(mupdf.ll_pdf_keep_obj(space)))))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (as above)
        return 4


def _table_bytes(function: Any) -> int:
    """The length of a sampled function's table."""
    size = _get(function, "Size")
    samples = mupdf.ll_pdf_array_len(_get(function, "Range")) // 2
    for position in range(min(mupdf.ll_pdf_array_len(size), 32)):
        samples *= mupdf.ll_pdf_to_int(mupdf.ll_pdf_array_get(size, position))
    return int(-(-samples * mupdf.ll_pdf_to_int(_get(function, "BitsPerSample")) // 8))


def _is_whole_jpeg(stream: Any, raw: bytes) -> bool:
    width, height = (mupdf.ll_pdf_to_int(_get(stream, key)) for key in ("Width", "Height"))
    if width * height > _MOST_JPEG_PIXELS:
        return False
    try:
        file = ended(raw, decode=_decoded)
    except (OSError, ValueError, SyntaxError):  # Pillow's, for data that are no JPEG
        return False
    return file is not None and not file.lacks_pixels


def _decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        if image.width * image.height > _MOST_JPEG_PIXELS:
            raise ValueError
        image.load()
        return image


def _is_complete(raw: bytes) -> bool:
    """Whether compressed data come to their end. A checksum that is absent, cut off or zero counts as none."""
    unpacker = zlib.decompressobj(-15)
    rest, left = raw[2:], _MOST_BYTES
    try:
        while rest and not unpacker.eof and left > 0:
            left -= len(unpacker.decompress(rest, 1 << 20))
            rest = unpacker.unconsumed_tail
    except zlib.error:
        return False
    if unpacker.eof:
        checksum = unpacker.unused_data
        return len(checksum) < _CHECKSUM_BYTES or checksum == bytes(_CHECKSUM_BYTES)
    return left > 0 and raw.endswith(_END_OF_A_FLUSH)
