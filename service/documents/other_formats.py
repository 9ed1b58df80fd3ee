"""Names the formats that people send and the service does not read, by their first bytes, and tells what to send instead."""

import codecs
from dataclasses import dataclass

_HEAD_BYTES = 4096
_AS_PHOTO = "Save it as JPEG or PNG."
_AS_DRAWING = "Save it as PNG, or print it to a PDF."
_AS_PRINT = "Print or export it to a PDF."
_UNPACKED = "Unpack it, and send the files in it."


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFormat:
    """A format outside the list."""

    name: str  # with its article
    remedy: str  # a sentence


_BY_MAGIC = (
    (b"\xff\x0a", OtherFormat(name="a JPEG XL image", remedy=_AS_PHOTO)),
    (b"\0\0\0\x0cJXL \r\n\x87\n", OtherFormat(name="a JPEG XL image", remedy=_AS_PHOTO)),
    (b"\0\0\0\x0cjP  \r\n\x87\n", OtherFormat(name="a JPEG 2000 image", remedy=_AS_PHOTO)),
    (b"\xff\x4f\xff\x51", OtherFormat(name="a JPEG 2000 image", remedy=_AS_PHOTO)),
    (b"8BPS", OtherFormat(name="a Photoshop file (PSD)", remedy=_AS_DRAWING)),
    (b"\xc5\xd0\xd3\xc6", OtherFormat(name="an EPS drawing", remedy=_AS_DRAWING)),
    (b"%!PS", OtherFormat(name="a PostScript or EPS file", remedy=_AS_DRAWING)),
    (b"AT&TFORM", OtherFormat(name="a DjVu document", remedy=_AS_PRINT)),
    (b"\0\0\x01\0", OtherFormat(name="an icon (ICO)", remedy=_AS_PHOTO)),
    (b"\xd7\xcd\xc6\x9a", OtherFormat(name="a Windows metafile (WMF)", remedy=_AS_DRAWING)),
    (b"\x97JB2\r\n\x1a\n", OtherFormat(name="a JBIG2 image", remedy=_AS_PHOTO)),
    (b"{\\rtf", OtherFormat(name="an RTF document", remedy=_AS_PRINT)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OtherFormat(name="an Office file (DOC, XLS, PPT, MSG)", remedy=_AS_PRINT)),
    (b"\x1f\x8b", OtherFormat(name="a gzip archive", remedy=_UNPACKED)),
    (b"7z\xbc\xaf\x27\x1c", OtherFormat(name="a 7z archive", remedy=_UNPACKED)),
    (b"Rar!\x1a\x07", OtherFormat(name="a RAR archive", remedy=_UNPACKED)),
)
_BY_BRAND = {
    **dict.fromkeys((b"avif", b"avis"), OtherFormat(name="an AVIF image", remedy=_AS_PHOTO)),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        OtherFormat(name="a HEIC image", remedy=_AS_PHOTO),
    ),
}
"""ISO base media files, by the brands that they list."""

_OTHER_BRAND = OtherFormat(name="a video (MP4, MOV)", remedy="Send single frames as JPEG or PNG.")
_BY_MEMBER = (
    (b"word/", OtherFormat(name="a Word document (DOCX)", remedy=_AS_PRINT)),
    (b"xl/", OtherFormat(name="an Excel workbook (XLSX)", remedy=_AS_PRINT)),
    (b"ppt/", OtherFormat(name="a PowerPoint presentation (PPTX)", remedy=_AS_PRINT)),
    (b"mimetypeapplication/vnd.oasis.opendocument.", OtherFormat(name="an OpenDocument file", remedy=_AS_PRINT)),
    (b"mimetypeapplication/epub+zip", OtherFormat(name="an EPUB book", remedy=_AS_PRINT)),
)
"""Zip archives, by a name of a member at the start of its header, or by the first member and its content."""

_ZIP_MEMBER = b"PK\x03\x04"
_ZIP_NAME_AT = 30
_MEMBERS = 64  # looked at
_ZIP = OtherFormat(name="a zip archive", remedy=_UNPACKED)
_BASE64_OF_FILES = (b"JVBERi0", b"iVBORw0KGgo", b"/9j/", b"R0lGOD", b"UklGR", b"SUkqA", b"TU0AK", b"data:")
_BASE64 = OtherFormat(name="base64 text", remedy="Send the bytes of the file, or encode them once only.")
_SVG = OtherFormat(name="an SVG drawing", remedy=_AS_DRAWING)
_HTML = OtherFormat(name="an HTML page", remedy=_AS_PRINT)
_TEXT = OtherFormat(name="plain text", remedy="Send it as a text, or print it to a PDF.")


def other_format(data: bytes | bytearray) -> OtherFormat | None:
    """The format of a document that is neither a PDF nor an image which the service reads; None if it is not known."""
    head = bytes(data[:_HEAD_BYTES])
    if head.startswith(_ZIP_MEMBER):
        return _kind_of_zip(data)
    if head[4:8] == b"ftyp":
        return _kind_of_media(head)
    for magic, found in _BY_MAGIC:
        if head.startswith(magic):
            return found
    return _kind_of_text(head)


def _kind_of_zip(data: bytes | bytearray) -> OtherFormat:
    """Looks at the first members, whatever their order."""
    position = 0
    for _ in range(_MEMBERS):
        start = bytes(data[position + _ZIP_NAME_AT : position + _ZIP_NAME_AT + 64])
        for name, found in _BY_MEMBER:
            if start.startswith(name):
                return found
        position = data.find(_ZIP_MEMBER, position + 4)
        if position < 0:
            break
    return _ZIP


def _kind_of_media(head: bytes) -> OtherFormat:
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4]), 256), 4))]
    known = [_BY_BRAND[brand] for brand in brands if brand in _BY_BRAND]
    avif = _BY_BRAND[b"avif"]
    return avif if avif in known else known[0] if known else _OTHER_BRAND  # AVIF files list HEIC's general brand too


def _kind_of_text(head: bytes) -> OtherFormat | None:
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    lowered = start.lower()
    if lowered.startswith((b"<!doctype html", b"<html")):
        return _HTML
    if start.startswith((b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in start:
        return _SVG
    if lowered.startswith((b"<?xml", b"<!--")) and b"<html" in lowered:
        return _HTML
    if start.startswith(_BASE64_OF_FILES):
        return _BASE64
    return _TEXT if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8, or UTF-16 with a byte order mark, without the control characters of binary files."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut off
    except UnicodeDecodeError:
        return False
    return bool(text) and all(character >= " " or character in "\t\n\r\f\x1b" for character in text)
