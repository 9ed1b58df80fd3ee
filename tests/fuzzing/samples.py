"""Whole documents of every accepted kind, to be mutated."""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass

import pymupdf
from PIL import Image

from service.raster.page import Kind
from tests.broken_pdfs import intact_sheets, write_pdf
from tests.documents import encode, make_encrypted_pdf, make_pdf, make_tiff


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    name: str
    kind: Kind
    data: bytes


@functools.cache
def samples() -> tuple[Sample, ...]:
    """The same ones in each run: a PDF for each kind of content, and images in their variants."""
    pdfs = {
        "pdf": make_pdf(3),
        "pdf with object streams": _with_object_streams(make_pdf(4)),
        "pdf encrypted": make_encrypted_pdf(password="secret"),
        **{f"pdf {name}": write_pdf(objects) for name, objects in intact_sheets().items()},
    }
    return (
        *(Sample(name=name, kind=Kind.PDF, data=data) for name, data in pdfs.items()),
        *(Sample(name=name, kind=Kind.IMAGE, data=data) for name, data in _images().items()),
    )


def _with_object_streams(pdf: bytes) -> bytes:
    """As newer programs write it: objects and the cross-reference table in compressed streams."""
    with pymupdf.open(stream=pdf) as document:
        return bytes(document.tobytes(use_objstms=1, deflate=True))


def _images() -> Mapping[str, bytes]:
    picture = Image.new("RGB", (60, 44))
    picture.putdata([(4 * x, 5 * y, (x * y) % 256) for y in range(44) for x in range(60)])
    frames = [picture.rotate(angle) for angle in (30, 60)]
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    return {
        "png": encode(picture, "PNG"),
        "png with a palette": encode(picture.quantize(16), "PNG"),
        "png with alpha": encode(picture.convert("RGBA"), "PNG"),
        "png of 16 bits": encode(picture.convert("I;16"), "PNG"),
        "jpeg": encode(picture, "JPEG", exif=exif),
        "jpeg progressive": encode(picture, "JPEG", progressive=True, quality=95),
        "jpeg of four inks": encode(picture.convert("CMYK"), "JPEG"),
        "tiff": make_tiff([(40, 30), (50, 20)]),
        **{
            f"tiff {compression}": encode(
                picture.convert("1") if compression == "group4" else picture, "TIFF", compression=compression
            )
            for compression in ("group4", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        },
        "webp": encode(picture, "WEBP"),
        "webp lossless": encode(picture, "WEBP", lossless=True),
        "gif": _animation(picture, frames, "GIF"),
        "webp animated": _animation(picture, frames, "WEBP"),
        "bmp": encode(picture, "BMP"),
        "bmp with a palette": encode(picture.quantize(16), "BMP"),
    }


def _animation(first: Image.Image, others: list[Image.Image], format: str) -> bytes:
    out = io.BytesIO()
    first.save(out, format, save_all=True, append_images=others, duration=100)
    return out.getvalue()
