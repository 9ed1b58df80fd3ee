"""Small PDFs and images as bytes, made when a test asks for them: ordinary ones, odd ones and hostile ones."""

import functools
import io
import struct
import zlib
from collections.abc import Sequence

import pymupdf
from PIL import Image


def make_pdf(page_count: int, *, width: float = 612, height: float = 792) -> bytes:
    """Page n carries n times a black bar, so that pages can be told apart."""
    with pymupdf.open() as document:
        for number in range(1, page_count + 1):
            page = document.new_page(width=width, height=height)
            page.draw_rect(pymupdf.Rect(0, 0, width, height * number / (page_count + 1)), fill=(0, 0, 0))
        return bytes(document.tobytes())


def make_encrypted_pdf(*, password: str) -> bytes:
    with pymupdf.open() as document:
        document.new_page()
        encryption = pymupdf.mupdf.PDF_ENCRYPT_AES_256
        return bytes(document.tobytes(encryption=encryption, user_pw=password, owner_pw="owner"))


def make_raw_pdf(*, media_box: str, content: bytes = b"", more: Sequence[bytes] = (), page_keys: str = "") -> bytes:
    """One page written by hand, without a cross-reference table; `more` are objects 5 and up, `/X` names object 5."""
    page = (
        f"<</Type/Page/Parent 2 0 R/MediaBox {media_box}/Contents 4 0 R/Resources<</XObject<</X 5 0 R>>>>{page_keys}>>"
    )
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        page.encode(),
        stream(b"", content),
        *more,
    ]
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, text) for number, text in enumerate(objects, start=1))
    return b"%PDF-1.7\n" + body + b"trailer\n<</Root 1 0 R/Size %d>>\n" % (len(objects) + 1)


def make_torn_pdf() -> bytes:
    """Two pages, of which the second one cannot be drawn (`bad_page_box`)."""
    data = make_raw_pdf(media_box="[0 0 100 100]")
    data = data.replace(b"/Kids[3 0 R]/Count 1", b"/Kids[3 0 R 5 0 R]/Count 2")
    sliver = b"5 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox [0 0 100000 1]>>\nendobj\ntrailer"
    return data.replace(b"trailer", sliver)


def stream(keys: bytes, data: bytes) -> bytes:
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (keys, len(data), data)


def make_endless_pdf() -> bytes:
    """Forms that draw each other: 10^12 rectangles in 3 KB, a "billion laughs" that no renderer finishes."""
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 100 100]"
    levels = [
        stream(form + b"/Resources<</XObject<</X %d 0 R>>>>" % (6 + level), b"/X Do " * 10) for level in range(12)
    ]
    return make_raw_pdf(media_box="[0 0 100 100]", content=b"/X Do", more=[*levels, stream(form, b"0 0 10 10 re f")])


def make_pdf_with_truncated_image() -> bytes:
    """The image says 100 × 100 and has ten rows: MuPDF pads it, and only a warning tells."""
    image = (
        b"/Type/XObject/Subtype/Image/Width 100/Height 100/BitsPerComponent 8/ColorSpace/DeviceGray/Filter/FlateDecode"
    )
    content = b"100 0 0 100 0 0 cm /X Do"
    return make_raw_pdf(media_box="[0 0 100 100]", content=content, more=[stream(image, zlib.compress(bytes(1_000)))])


@functools.cache  # half a second of encoding
def make_pdf_with_huge_jpeg2000(*, edge: int) -> bytes:
    """A few hundred bytes that need more than 8 bytes of memory a pixel."""
    data = encode(Image.new("RGB", (edge, edge), (200, 30, 30)), "JPEG2000")
    image = b"/Type/XObject/Subtype/Image/Width %d/Height %d/Filter/JPXDecode" % (edge, edge)
    return make_raw_pdf(media_box="[0 0 100 100]", content=b"100 0 0 100 0 0 cm /X Do", more=[stream(image, data)])


def make_image(width: int = 40, height: int = 30, *, format: str = "PNG", colour: str = "red") -> bytes:
    return encode(Image.new("RGB", (width, height), colour), format)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def make_tiff(sizes: Sequence[tuple[int, int]]) -> bytes:
    """A frame per size, frame n with the grey value 10 n."""
    frames = [Image.new("RGB", size, (10 * number,) * 3) for number, size in enumerate(sizes, start=1)]
    return encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])


def make_png_header(width: int, height: int) -> bytes:
    """A greyscale PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", zlib.compress(b""))


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
