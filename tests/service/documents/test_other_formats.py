import io
import zipfile

import pytest
from PIL import Image

from service.documents.sources import require_kind
from service.errors import UnsupportedMediaTypeError
from service.raster.page import Kind
from tests.documents import encode, make_image, make_pdf

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def make_zip(*names: str, mimetype: str | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        if mimetype is not None:
            archive.writestr("mimetype", mimetype)
        for name in names:
            archive.writestr(name, "<x/>")
    return stream.getvalue()


def make_media(major: bytes, *brands: bytes) -> bytes:
    return (16 + 4 * len(brands)).to_bytes(4) + b"ftyp" + major + bytes(4) + b"".join(brands) + bytes(40)


OFFICE = ("[Content_Types].xml", "_rels/.rels", "docProps/app.xml")
FORMATS = {
    "heic": (make_media(b"heic", b"mif1", b"heic"), "a HEIC image", "JPEG"),
    "heif of another maker": (make_media(b"mif1", b"heix"), "a HEIC image", "JPEG"),
    "avif": (encode(Image.new("RGB", (8, 8)), "AVIF"), "an AVIF image", "JPEG"),
    "avif under the general brand": (make_media(b"mif1", b"mif1", b"avif"), "an AVIF image", "JPEG"),
    "mp4": (make_media(b"isom", b"mp42"), "a video", "frames"),
    "jpeg xl": (b"\xff\x0a" + bytes(40), "a JPEG XL image", "JPEG"),
    "jpeg xl in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a JPEG XL image", "JPEG"),
    "jpeg 2000": (make_image(format="JPEG2000"), "a JPEG 2000 image", "JPEG"),
    "svg": (SVG, "an SVG drawing", "PNG"),
    "svg after its declaration": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->' + SVG, "an SVG drawing", "PNG"),
    "html": (b"\n<!DOCTYPE html><html><body>" + SVG, "an HTML page", "PDF"),
    "xhtml": (b'<?xml version="1.0"?><html xmlns="x">', "an HTML page", "PDF"),
    "docx": (make_zip(*OFFICE, "word/document.xml"), "a Word document (DOCX)", "PDF"),
    "xlsx": (make_zip(*OFFICE, "xl/workbook.xml"), "an Excel workbook (XLSX)", "PDF"),
    "pptx": (make_zip(*OFFICE, "ppt/presentation.xml"), "a PowerPoint presentation (PPTX)", "PDF"),
    "odt": (make_zip(mimetype="application/vnd.oasis.opendocument.text"), "an OpenDocument file", "PDF"),
    "epub": (make_zip(mimetype="application/epub+zip"), "an EPUB book", "PDF"),
    "zip": (make_zip("scans/words/1.jpg"), "a zip archive", "Unpack"),
    "doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "an Office file", "PDF"),
    "psd": (b"8BPS\0\x01" + bytes(20), "a Photoshop file (PSD)", "PNG"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript or EPS file", "PDF"),
    "rtf": (b"{\\rtf1\\ansi words}", "an RTF document", "PDF"),
    "text": ("Größe: 3 m\r\n".encode(), "plain text", "as a text"),
    "text cut within a character": (b"a" * 4095 + "ü".encode(), "plain text", "as a text"),
    "utf-16": ("words".encode("utf-16"), "plain text", "as a text"),
    "base64": (b"JVBERi0xLjcKJeLjz9MK", "base64 text", "once"),
}


@pytest.mark.parametrize(("data", "name", "remedy"), FORMATS.values(), ids=FORMATS)
def test_a_format_that_is_not_read_is_named_with_a_remedy(data: bytes, name: str, remedy: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        require_kind(data)
    found, _, rest = caught.value.message.removeprefix("the document is ").partition(", but only PDFs and PNG, ")
    assert found.startswith(name)
    assert remedy in rest.partition(" are read. ")[2]


@pytest.mark.parametrize("data", [b"\0\x01\x02\x03", b"\x80words", b"words\0", b""])
def test_an_unknown_format_is_refused_without_a_name(data: bytes) -> None:
    with pytest.raises(
        UnsupportedMediaTypeError, match=r"^the document is neither a PDF nor .* Print or export it to a PDF\."
    ):
        require_kind(data)


def test_what_the_service_reads_is_not_taken_for_another_format() -> None:
    assert require_kind(make_pdf(1)) is Kind.PDF
    assert require_kind(b"\n" * 900 + make_pdf(1)) is Kind.PDF
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        assert require_kind(make_image(format=format)) is Kind.IMAGE
