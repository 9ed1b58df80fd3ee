"""Converts images whose colours are not sRGB: by their ICC profile, by the chunks gAMA and cHRM of PNG, or from CIE Lab.

An image that is sRGB by its profile, or says nothing, is left as it is: the checkpoint was trained on such pixels.
"""

import functools
import io
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile, ImageCmsTransform

_MAX_PROFILE_BYTES = 4 << 20  # profiles of printing presses have up to 3 MB
_PROBES_PER_CHANNEL = 6
_NO_DIFFERENCE = 3
"""In levels of 255: profiles that mean sRGB move the colours of the probe by 2 at most, others some of them by 6 and more."""

_SRGB_GAMMA = 0.45455
_SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # x and y of white, red, green and blue
_SAME_GAMMA = 0.05
_SAME_CHROMATICITY = 0.01
_LEAST_GAMMA, _MOST_GAMMA = 0.2, 2.0  # no encoder means others
_D50 = (0.9642, 1.0, 0.8249)  # the white of ICC profiles, X Y Z
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))

_Row = tuple[float, float, float]
_Matrix = tuple[_Row, _Row, _Row]


def transform_to_srgb(image: Image.Image, mode: str) -> "ImageCmsTransform | None":
    """From the colours of `image`, once it has been brought to `mode`, to sRGB; None if they are taken for sRGB.

    mode: RGB, CMYK, L or LAB. A profile that is broken, longer than 4 MiB or for another colour space is ignored.
    """
    profile = _profile_bytes(image, mode)
    return None if profile is None and mode != "LAB" else _transform_of(profile, mode)


@functools.lru_cache(maxsize=8)  # 2 ms for each of a document's pages, a quarter of the time that a small page takes
def _transform_of(profile: bytes | None, mode: str) -> "ImageCmsTransform | None":
    """profile: None: that of Lab under D50."""
    from PIL import ImageCms  # not needed for most images

    transform = None
    if profile is not None:
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            transform = _transform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), mode)
    if transform is None and mode == "LAB":
        transform = _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), mode)
    return None if transform is None or _changes_nothing(transform, mode) else transform


def _profile_bytes(image: Image.Image, mode: str) -> bytes | None:
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        return profile if len(profile) <= _MAX_PROFILE_BYTES else None
    gamma = image.info.get("gamma")
    if mode in ("RGB", "L") and isinstance(gamma, float) and "srgb" not in image.info:
        chromaticities = image.info.get("chromaticity", _SRGB_CHROMATICITIES)
        return profile_of_gamma(gamma, chromaticities, mode=mode)
    return None


def _transform(profile: "ImageCmsProfile", mode: str) -> "ImageCmsTransform":
    """Raises: ValueError, for a profile of another colour space."""
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    # White paper becomes white, and the darkest ink black.
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.ImageCmsTransform(profile, srgb, mode, "RGB", intent, flags=flags)


def _changes_nothing(transform: "ImageCmsTransform", mode: str) -> bool:
    if mode not in ("RGB", "L"):
        return False
    levels = [round(step * 255 / (_PROBES_PER_CHANNEL - 1)) for step in range(_PROBES_PER_CHANNEL)]
    if mode == "L":
        probe = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        colours = bytes(level for red in levels for green in levels for blue in levels for level in (red, green, blue))
        greys = bytes(level for level in range(256) for _ in range(3))
        probe = Image.frombytes("RGB", (256 + _PROBES_PER_CHANNEL**3, 1), greys + colours)
    difference = ImageChops.difference(probe.convert("RGB"), transform.apply(probe))
    return max(difference.tobytes()) <= _NO_DIFFERENCE


def profile_of_gamma(gamma: float, chromaticities: Sequence[float], *, mode: str) -> bytes | None:
    """An ICC profile for what a PNG file says in gAMA and cHRM; None if that is about sRGB, or makes no sense.

    gamma: the exponent from light to samples, 0.45455 for sRGB. chromaticities: x and y of white, red, green and blue.
    """
    if not _LEAST_GAMMA <= gamma <= _MOST_GAMMA:
        return None
    has_usual_gamma = abs(gamma / _SRGB_GAMMA - 1) <= _SAME_GAMMA
    has_usual_colours = mode == "L" or (
        len(chromaticities) == len(_SRGB_CHROMATICITIES)
        and all(
            abs(one - other) <= _SAME_CHROMATICITY
            for one, other in zip(chromaticities, _SRGB_CHROMATICITIES, strict=True)
        )
    )
    if has_usual_gamma and has_usual_colours:
        return None
    curve = struct.pack(">4sIIH2x", b"curv", 0, 1, round(256 / gamma))
    white = _xyz(_D50)
    if mode == "L":
        return _profile(b"GRAY", {b"wtpt": white, b"kTRC": curve})
    try:
        columns = zip(*_primaries(chromaticities), strict=True)
        tags = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    except (ZeroDivisionError, ValueError, struct.error):
        return None
    return _profile(b"RGB ", {b"wtpt": white, **tags, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def _primaries(chromaticities: Sequence[float]) -> _Matrix:
    """From linear RGB to X Y Z under D50. Raises: ZeroDivisionError, ValueError for colours that span no space."""
    white, red, green, blue = (_from_xy(x, y) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True))
    colours = _transposed((red, green, blue))
    shares = _applied(_inverse(colours), white)
    to_xyz = _product(colours, _diagonal(shares))
    cones_of_white, cones_of_d50 = _applied(_BRADFORD, white), _applied(_BRADFORD, _D50)
    d50, d50_green, d50_blue = (new / old for new, old in zip(cones_of_d50, cones_of_white, strict=True))
    adaptation = _product(_inverse(_BRADFORD), _product(_diagonal((d50, d50_green, d50_blue)), _BRADFORD))
    return _product(adaptation, to_xyz)


def _from_xy(x: float, y: float) -> _Row:
    return (x / y, 1.0, (1 - x - y) / y)


def _diagonal(row: _Row) -> _Matrix:
    return ((row[0], 0.0, 0.0), (0.0, row[1], 0.0), (0.0, 0.0, row[2]))


def _transposed(matrix: _Matrix) -> _Matrix:
    first, second, third = zip(*matrix, strict=True)
    return (first, second, third)


def _applied(matrix: _Matrix, vector: _Row) -> _Row:
    first, second, third = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return (first, second, third)


def _product(left: _Matrix, right: _Matrix) -> _Matrix:
    first, second, third = (_applied(left, column) for column in _transposed(right))
    return _transposed((first, second, third))


def _inverse(matrix: _Matrix) -> _Matrix:
    """By Cramer's rule. Raises: ZeroDivisionError."""
    a, b, c = matrix
    rows = _transposed((_cross(b, c), _cross(c, a), _cross(a, b)))
    determinant = sum(one * other for one, other in zip(a, _cross(b, c), strict=True))
    first, second, third = ((row[0] / determinant, row[1] / determinant, row[2] / determinant) for row in rows)
    return (first, second, third)


def _cross(a: _Row, b: _Row) -> _Row:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _xyz(colour: Sequence[float]) -> bytes:
    """Raises: ValueError, struct.error for numbers outside the range of the format."""
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(value * 65536) for value in colour))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A display profile of version 2.4, whose fields are in ICC.1:2001-04."""
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name, offset + len(body), len(value))
        body += value
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s12x4s", size, b"", 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    header = header.ljust(64, b"\0") + struct.pack(">I", 0) + _xyz(_D50)[8:]
    return header.ljust(128, b"\0") + table + body
