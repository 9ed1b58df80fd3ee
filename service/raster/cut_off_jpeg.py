"""Tells how much of a JPEG file's picture is there when its end is missing, and gives it an end.

The entropy-coded data says only when it is decoded whether it holds all blocks, and libjpeg paints missing ones grey without
an error. So the data is decoded with different tails: a pixel that changes with the tail was not in the file.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageChops

END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_STARTS = (b"\x5b", b"\xa4", b"\x2d", b"\xd2")
_FILLING_BYTES = 4_096  # more than the largest group of blocks, ten of them, can take: some of them may be out of sight
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_STANDALONE = 0x01
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_COEFFICIENTS = 64
_GREY_OF_MISSING_BLOCKS = range(126, 131)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A JPEG file with an end, and whether pixels are missing before it."""

    data: bytes
    lacks_pixels: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    components: tuple[int, ...]
    coefficients: range
    lacking_bits: int  # of each coefficient, for later scans


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    end: int  # the marker of the end, or the last byte that is of use
    components: tuple[int, ...]
    scans: tuple[_Scan, ...]
    last_scan_at: int  # its data


def may_lack_pixels(image: Image.Image, data: bytes) -> bool:
    """Whether pixels may be missing in a JPEG that was decoded without an error: a look that costs next to nothing.

    Finds missing scans, and missing blocks by their grey in the last pixel, which few real pictures end in. Does not find a
    last block of which a part is missing.
    """
    if "progressive" in image.info:
        file = _read(data)
        if file is not None and not _is_whole(file.scans, file.components):
            return True
    pixel = image.getpixel((image.width - 1, image.height - 1))
    samples = pixel if isinstance(pixel, tuple) else (pixel,)
    return all(sample in _GREY_OF_MISSING_BLOCKS for sample in samples)


def ended(data: bytes, *, decode: Callable[[bytes], Image.Image]) -> Ended | None:
    """The file up to where it is cut off, with an end; None if less than half of the picture is there, or a code is cut in two.

    Half of the rows must be legible: a row is where all coefficients of its brightness have been read, if not in all bits.
    """
    file = _read(data)
    if file is None:
        return None
    kept = data[: file.end]
    image = decode(kept + END)
    first_missing_row = _first_missing_row(image, kept, file.last_scan_at, decode)
    if first_missing_row is None:
        if not _is_legible(file.scans, file.components):
            return None
        return Ended(data=kept + END, lacks_pixels=not _is_whole(file.scans, file.components))
    is_legible = _is_legible(file.scans[:-1], file.components) or (
        _is_legible(file.scans, file.components) and 2 * first_missing_row >= image.height
    )
    return Ended(data=kept + END, lacks_pixels=True) if is_legible else None


def _read(data: bytes) -> _File | None:
    """What the file's segments say up to its end, or to where it is cut off.

    None before the first whole scan header, and where the last byte is half of a code: what it was cannot be told.
    """
    components: tuple[int, ...] = ()
    scans: list[_Scan] = []
    last_scan_at = 0
    position = 2
    while True:
        marker = _MARKER.search(data, position)
        if marker is None:
            if data.endswith(b"\xff"):
                return None
            end = len(data)
            break
        code, start = marker[1][0], marker.end()
        if code == _STANDALONE:
            position = start
            continue
        length = int.from_bytes(data[start : start + 2])
        body = data[start + 2 : start + length]
        if code == _END_OF_IMAGE or length < 2 or len(body) < length - 2:
            end = marker.start()
            break
        try:
            if code in _FRAMES:
                components = tuple(body[6 : 6 + 3 * body[5] : 3])
            elif code == _START_OF_SCAN:
                scans.append(_scan(body))
                last_scan_at = start + length
        except IndexError:
            return None
        position = start + length
    if not components or not scans:
        return None
    return _File(end=end, components=components, scans=tuple(scans), last_scan_at=last_scan_at)


def _scan(body: bytes) -> _Scan:
    """Raises: IndexError."""
    after_components = 1 + 2 * body[0]
    first, last, bits = body[after_components], body[after_components + 1], body[after_components + 2]
    return _Scan(
        components=tuple(body[1:after_components:2]), coefficients=range(first, last + 1), lacking_bits=bits & 15
    )


def _first_missing_row(
    image: Image.Image, kept: bytes, last_scan_at: int, decode: Callable[[bytes], Image.Image]
) -> int | None:
    for tail in _tails(kept, last_scan_at):
        changed = ImageChops.difference(image, decode(kept + tail + END)).getbbox(alpha_only=False)
        if changed is not None:
            return changed[1]
    return None


def _tails(kept: bytes, last_scan_at: int) -> Iterator[bytes]:
    """Noise that begins with different bits, so that different ways to complete a code are tried.

    A decoder that waits for a restart marker finds the one that it expects.
    """
    restarts = _RESTART.findall(kept, last_scan_at)
    expected = restarts[-1][1] - 0xD0 + 1 if restarts else 0
    for start in _STARTS:
        noise = start + hashlib.shake_128(start).digest(_FILLING_BYTES).replace(b"\xff", b"\xfe")
        yield noise + b"".join(bytes((0xFF, 0xD0 + (expected + more) % 8)) + noise for more in range(16))


def _is_legible(scans: tuple[_Scan, ...], components: tuple[int, ...]) -> bool:
    brightness = components[0]
    read = {place for scan in scans if brightness in scan.components for place in scan.coefficients}
    return read.issuperset(range(_COEFFICIENTS))


def _is_whole(scans: tuple[_Scan, ...], components: tuple[int, ...]) -> bool:
    read = {
        (component, place)
        for scan in scans
        if scan.lacking_bits == 0
        for component in scan.components
        for place in scan.coefficients
    }
    return read.issuperset((component, place) for component in components for place in range(_COEFFICIENTS))
