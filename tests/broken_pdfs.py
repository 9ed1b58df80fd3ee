"""PDFs of one page with one thing broken, for each kind of object that draws something: made when a test asks for them."""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pymupdf
from PIL import Image, ImageCms, TiffImagePlugin

from tests.documents import encode, stream

_REFERENCE = re.compile(rb"@(\w+)")
_PAGE = b"<</Type/Page/Parent @pages/MediaBox[0 0 300 300]/Contents @content/Resources @resources"
_BAR = b" 0 g 20 20 260 20 re f "  # the part of each page that stays


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPdf:
    """One file. name: the sheet, the object and the fault, for messages."""

    name: str
    sheet: str
    data: bytes


def write_pdf(objects: Mapping[str, bytes]) -> bytes:
    """The objects with a cross-reference table. `@name` in one of them refers to another; `catalog` is the root."""
    numbers = {name: number for number, name in enumerate(objects, start=1)}
    absent = len(objects) + 1  # a reference to an object that is not in the file

    def resolve(match: re.Match[bytes]) -> bytes:
        return b"%d 0 R" % numbers.get(match[1].decode(), absent)

    out = io.BytesIO(b"%PDF-1.7\n")
    out.seek(0, io.SEEK_END)
    offsets = []
    for name, value in objects.items():
        offsets.append(out.tell())
        head, word, rest = value.partition(b"stream\n")  # references in the data of a stream are none
        out.write(b"%d 0 obj\n%s\nendobj\n" % (numbers[name], _REFERENCE.sub(resolve, head) + word + rest))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    for offset in offsets:
        out.write(b"%010d 00000 n \n" % offset)
    root = numbers.get("catalog", absent)
    out.write(b"trailer\n<</Root %d 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF\n" % (root, len(objects) + 1, start))
    return out.getvalue()


def sheet(content: bytes, resources: bytes = b"", *, page_keys: bytes = b"", **objects: bytes) -> dict[str, bytes]:
    """The objects of a page that draws a bar, and then the content in the square from (50, 80) to (250, 280)."""
    return {
        "catalog": b"<</Type/Catalog/Pages @pages>>",
        "pages": b"<</Type/Pages/Kids[@page]/Count 1>>",
        "page": _PAGE + page_keys + b">>",
        "resources": b"<<" + resources + b">>",
        "content": stream(b"/Filter/FlateDecode", zlib.compress(_BAR + content)),
        **objects,
    }


def make_pdf_with_root(root_keys: bytes, *, pages: int = 1) -> bytes:
    """root_keys: further entries of the catalogue, which may refer to xfa (a stream), field and signature (form fields)."""
    field = b"<</T(a)/Subtype/Widget/Rect[0 0 10 10]/FT/%s>>"
    return write_pdf(
        {
            **sheet(b""),
            "catalog": b"<</Type/Catalog/Pages @pages%s>>" % root_keys,
            "pages": b"<</Type/Pages/Kids[%s]/Count %d>>" % (b"@page " * pages, pages),
            "xfa": stream(b"", b"<xdp:xdp xmlns:xdp='http://ns.adobe.com/xdp/'/>"),
            "field": field % b"Tx",
            "signature": field % b"Sig",
        }
    )


def intact_sheets() -> dict[str, dict[str, bytes]]:
    """The objects of each kind of page, by name, before anything is broken."""
    return {**_image_sheets(), **_paint_sheets(), **_text_sheets(), **_structure_sheets()}


_SHOW = b"q 200 0 0 200 50 80 cm /X Do Q"
_AS_X = b"/XObject<</X @image>>"


def _picture(size: int = 64) -> Image.Image:
    """Stripes and a gradient: every row and column has ink."""
    image = Image.new("RGB", (size, size))
    image.putdata([(40 + 2 * x, 30 + 2 * y, 200 if (x // 8) % 2 else 20) for y in range(size) for x in range(size)])
    return image


def _image(keys: bytes, data: bytes, *, size: int = 64) -> bytes:
    return stream(b"/Type/XObject/Subtype/Image/Width %d/Height %d%s" % (size, size, keys), data)


def _image_sheets() -> dict[str, dict[str, bytes]]:
    picture, grey = _picture(), _picture().convert("L")
    rgb, flate = picture.tobytes(), b"/Filter/FlateDecode"
    rgb_keys = b"/BitsPerComponent 8/ColorSpace/DeviceRGB" + flate
    packed = zlib.compress(rgb)
    run_length = b"".join(b"\x3f" + rgb[start : start + 64] for start in range(0, len(rgb), 64)) + b"\x80"
    palette = bytes(component for index in range(256) for component in (index, 255 - index, 80))
    fax = encode(grey.convert("1"), "TIFF", compression="group4")
    with Image.open(io.BytesIO(fax)) as tiff:
        assert isinstance(tiff, TiffImagePlugin.TiffImageFile)
        start, length = tiff.tag_v2[273][0], tiff.tag_v2[279][0]
        ones = {0: b"/BlackIs1 true", 1: b""}[tiff.tag_v2[262]]
    profile = _srgb_profile()
    mask = _image(b"/BitsPerComponent 8/ColorSpace/DeviceGray" + flate, zlib.compress(b"\xa0" * 4096))
    stencil = _image(b"/ImageMask true/BitsPerComponent 1" + flate, zlib.compress(b"\x0f" * 512))
    return {
        "flate": sheet(_SHOW, _AS_X, image=_image(rgb_keys, packed)),
        "predictor": sheet(
            _SHOW,
            _AS_X,
            image=_image(
                rgb_keys + b"/DecodeParms<</Predictor 15/Colors 3/Columns 64>>",
                zlib.compress(b"".join(b"\0" + rgb[row * 192 : row * 192 + 192] for row in range(64))),
            ),
        ),
        "jpeg": sheet(
            _SHOW,
            _AS_X,
            image=_image(
                b"/BitsPerComponent 8/ColorSpace/DeviceRGB/Filter/DCTDecode", encode(picture, "JPEG", quality=90)
            ),
        ),
        "progressive_jpeg": sheet(
            _SHOW,
            _AS_X,
            image=_image(
                b"/BitsPerComponent 8/ColorSpace/DeviceRGB/Filter/DCTDecode",
                encode(picture, "JPEG", quality=90, progressive=True),
            ),
        ),
        "jpeg2000": sheet(_SHOW, _AS_X, image=_image(b"/Filter/JPXDecode", encode(picture, "JPEG2000"))),
        "fax": sheet(
            _SHOW,
            _AS_X,
            image=_image(
                b"/BitsPerComponent 1/ColorSpace/DeviceGray/Filter/CCITTFaxDecode"
                b"/DecodeParms<</K -1/Columns 64/Rows 64" + ones + b">>",
                fax[start : start + length],
            ),
        ),
        "run_length": sheet(
            _SHOW,
            _AS_X,
            image=_image(b"/BitsPerComponent 8/ColorSpace/DeviceRGB/Filter/RunLengthDecode", run_length),
        ),
        "ascii_hex": sheet(
            _SHOW,
            _AS_X,
            image=_image(
                b"/BitsPerComponent 8/ColorSpace/DeviceRGB/Filter[/ASCIIHexDecode/FlateDecode]",
                packed.hex().encode() + b">",
            ),
        ),
        "indexed": sheet(
            _SHOW,
            _AS_X,
            image=_image(
                b"/BitsPerComponent 8/ColorSpace[/Indexed/DeviceRGB 255 @palette]" + flate,
                zlib.compress(grey.tobytes()),
            ),
            palette=stream(b"", palette),
        ),
        "profile": sheet(
            _SHOW,
            _AS_X,
            image=_image(b"/BitsPerComponent 8/ColorSpace[/ICCBased @profile]" + flate, packed),
            profile=stream(b"/N 3/Alternate/DeviceRGB" + flate, zlib.compress(profile)),
        ),
        "soft_mask": sheet(_SHOW, _AS_X, image=_image(rgb_keys + b"/SMask @mask", packed), mask=mask),
        "mask": sheet(_SHOW, _AS_X, image=_image(rgb_keys + b"/Mask @mask", packed), mask=stencil),
        "stencil": sheet(b"1 0 0 rg " + _SHOW, _AS_X, image=stencil),
        "inline": sheet(
            b"q 200 0 0 200 50 80 cm BI /W 8 /H 8 /BPC 8 /CS /G /F /AHx ID "
            + bytes(range(64)).hex().encode()
            + b"> EI Q"
        ),
        "scan": {
            **sheet(b"", _AS_X, image=_image(rgb_keys, zlib.compress(_picture(75).tobytes()), size=75)),
            "content": stream(b"", b"q 300 0 0 300 0 0 cm /X Do Q"),
        },
    }


def _srgb_profile() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


_SQUARE = b" 50 80 200 200 re f "
_RAMP = b"<</FunctionType 2/Domain[0 1]/C0[1 0 0]/C1[0 0 1]/N 1>>"


def _paint_sheets() -> dict[str, dict[str, bytes]]:
    sampled = stream(b"/FunctionType 0/Domain[0 1]/Range[0 1 0 1 0 1]/Size[2]/BitsPerSample 8", b"\xff\0\0\0\0\xff")
    calculator = stream(b"/FunctionType 4/Domain[0 1]/Range[0 1 0 1 0 1]", b"{ dup 1 exch sub exch dup }")
    spot = b"/ColorSpace<</C @space>>"
    axial = b"<</ShadingType 2/ColorSpace/DeviceRGB/Coords[50 0 250 0]/Function @function/Extend[true true]>>"
    radial = b"<</ShadingType 3/ColorSpace/DeviceRGB/Coords[150 180 0 150 180 140]/Function @function>>"
    by_place = b"<</ShadingType 1/ColorSpace/DeviceRGB/Domain[0 1 0 1]/Matrix[200 0 0 200 50 80]/Function @function>>"
    of_place = stream(b"/FunctionType 4/Domain[0 1 0 1]/Range[0 1 0 1 0 1]", b"{ 2 copy add 2 div }")
    triangle = b"".join(
        struct.pack(">BHHBBB", 0, x, y, *colour)
        for x, y, colour in [(0, 0, (255, 0, 0)), (65535, 0, (0, 200, 0)), (30000, 65535, (0, 0, 255))]
    )
    mesh = stream(
        b"/ShadingType 4/ColorSpace/DeviceRGB/BitsPerCoordinate 16/BitsPerComponent 8/BitsPerFlag 8"
        b"/Decode[50 250 80 280 0 1 0 1 0 1]/Filter/FlateDecode",
        zlib.compress(triangle),
    )
    tile = stream(
        b"/Type/Pattern/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 50 50]/XStep 50/YStep 50/Resources<<>>",
        b"1 0 0 rg 0 0 30 30 re f",
    )
    with_pattern = b"/Pattern cs /P scn" + _SQUARE
    return {
        "separation": sheet(
            b"/C cs 1 scn" + _SQUARE, spot, space=b"[/Separation/Spot/DeviceRGB @function]", function=_RAMP
        ),
        "sampled": sheet(
            b"/C cs .7 scn" + _SQUARE, spot, space=b"[/Separation/Spot/DeviceRGB @function]", function=sampled
        ),
        "calculator": sheet(
            b"/C cs .7 scn" + _SQUARE, spot, space=b"[/Separation/Spot/DeviceRGB @function]", function=calculator
        ),
        "device_n": sheet(
            b"/C cs .7 .2 scn" + _SQUARE,
            spot,
            space=b"[/DeviceN[/One/Two]/DeviceRGB @function]",
            function=stream(b"/FunctionType 4/Domain[0 1 0 1]/Range[0 1 0 1 0 1]", b"{ 2 copy add 2 div }"),
        ),
        "lab": sheet(
            b"/C cs 50 60 20 scn" + _SQUARE, spot, space=b"[/Lab @white]", white=b"<</WhitePoint[.95 1 1.09]>>"
        ),
        "calibrated": sheet(
            b"/C cs .8 .2 .1 scn" + _SQUARE, spot, space=b"[/CalRGB @white]", white=b"<</WhitePoint[.95 1 1.09]>>"
        ),
        "paint_profile": sheet(
            b"/C cs .8 .2 .1 scn" + _SQUARE,
            spot,
            space=b"[/ICCBased @profile]",
            profile=stream(b"/N 3/Filter/FlateDecode", zlib.compress(_srgb_profile())),
        ),
        "axial": sheet(b"q 50 80 200 200 re W n /S sh Q", b"/Shading<</S @shading>>", shading=axial, function=_RAMP),
        "radial": sheet(b"/S sh", b"/Shading<</S @shading>>", shading=radial, function=_RAMP),
        "by_place": sheet(b"/S sh", b"/Shading<</S @shading>>", shading=by_place, function=of_place),
        "mesh": sheet(b"/S sh", b"/Shading<</S @shading>>", shading=mesh),
        "shading_pattern": sheet(
            with_pattern,
            b"/Pattern<</P @pattern>>",
            pattern=b"<</Type/Pattern/PatternType 2/Shading @shading>>",
            shading=axial,
            function=_RAMP,
        ),
        "tiles": sheet(with_pattern, b"/Pattern<</P @pattern>>", pattern=tile),
        "state": sheet(
            b"q /G gs 1 0 0 rg" + _SQUARE + b"Q",
            b"/ExtGState<</G @state>>",
            state=b"<</Type/ExtGState/LW 2/SA true/OP false/BM/Normal>>",
        ),
        "masked_state": sheet(
            b"q /G gs 1 0 0 rg" + _SQUARE + b"Q",
            b"/ExtGState<</G @state>>",
            state=b"<</Type/ExtGState/SMask<</S/Luminosity/G @group>>>>",
            group=stream(
                b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Group<</S/Transparency/CS/DeviceGray>>",
                b".6 g 50 80 200 200 re f",
            ),
        ),
    }


def _text_sheets() -> dict[str, dict[str, bytes]]:
    text = b"BT /F 60 Tf 50 200 Td (Bridge) Tj 0 -80 Td (River) Tj ET"
    as_f = b"/Font<</F @font>>"
    program = zlib.compress(pymupdf.Font("helv").buffer)
    widths = b"/FirstChar 32/LastChar 126/Widths[" + b"556 " * 95 + b"]"
    font_file = stream(b"/Subtype/Type1C/Filter/FlateDecode", program)
    descriptor = b"<</Type/FontDescriptor/FontName/Nimbus/Flags 32/FontBBox[-200 -300 1100 1000]/ItalicAngle 0" \
        b"/Ascent 900/Descent -200/CapHeight 700/StemV 80/FontFile3 @program>>"  # fmt: skip
    glyphs = pymupdf.Font("helv")
    codes = "".join(f"{glyphs.has_glyph(ord(letter)):04x}" for letter in "Bridge").encode()
    to_unicode = stream(
        b"",
        b"/CIDInit /ProcSet findresource begin begincmap /CMapName /X def 1 begincodespacerange <0000> <ffff> "
        b"endcodespacerange 1 beginbfrange <0000> <00ff> <0020> endbfrange endcmap end",
    )
    procedure = stream(b"", b"600 0 d0 50 50 400 600 re f")
    return {
        "standard_font": sheet(
            text, as_f, font=b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"
        ),
        "encoded_font": sheet(
            text,
            as_f,
            font=b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding @encoding>>",
            encoding=b"<</Type/Encoding/BaseEncoding/WinAnsiEncoding/Differences[66/A/C]>>",
        ),
        "embedded_font": sheet(
            text,
            as_f,
            font=b"<</Type/Font/Subtype/Type1/BaseFont/Nimbus/FontDescriptor @descriptor" + widths + b">>",
            descriptor=descriptor,
            program=font_file,
        ),
        "composite_font": sheet(
            b"BT /F 60 Tf 50 200 Td <" + codes + b"> Tj ET",
            as_f,
            font=b"<</Type/Font/Subtype/Type0/BaseFont/Nimbus/Encoding/Identity-H/DescendantFonts[@descendant]"
            b"/ToUnicode @unicode>>",
            descendant=b"<</Type/Font/Subtype/CIDFontType0/BaseFont/Nimbus/DW 600/FontDescriptor @descriptor"
            b"/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>>>",
            descriptor=descriptor,
            program=stream(b"/Subtype/CIDFontType0C/Filter/FlateDecode", program),
            unicode=to_unicode,
        ),
        "drawn_font": sheet(
            b"BT /F 60 Tf 50 180 Td (aba) Tj ET",
            as_f,
            font=b"<</Type/Font/Subtype/Type3/FontBBox[0 0 600 700]/FontMatrix[.001 0 0 .001 0 0]/FirstChar 97/LastChar 98"
            b"/Widths[600 600]/Encoding<</Type/Encoding/Differences[97/a/b]>>/CharProcs @procedures/Resources<<>>>>",
            procedures=b"<</a @procedure/b @procedure>>",
            procedure=procedure,
        ),
    }


def _structure_sheets() -> dict[str, dict[str, bytes]]:
    form = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]", b"1 0 0 rg 10 10 180 180 re f")
    outer = stream(
        b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Resources<</XObject<</X @form>>>>", b"q 1 0 0 1 50 80 cm /X Do Q"
    )
    group = stream(
        b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Group<</S/Transparency/I true>>", b"1 0 0 rg" + _SQUARE
    )
    second = stream(b"/Filter/FlateDecode", zlib.compress(b"1 0 0 rg" + _SQUARE))
    look = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]", b"0 .5 0 rg 0 0 200 200 re f")
    stamp = b"<</Type/Annot/Subtype/Stamp/Rect[50 80 250 280]/F 4/AP<</N @look>>>>"
    square = b"<</Type/Annot/Subtype/Square/Rect[50 80 250 280]/F 4/C[1 0 0]/BS<</W 8>>/AP<</N @look>>>>"
    field = b"<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V(x)/Rect[50 80 250 280]/F 4/DA(/F 12 Tf)/AP<</N @look>>>>"
    return {
        "form": sheet(b"q 1 0 0 1 50 80 cm /X Do Q", b"/XObject<</X @form>>", form=form),
        "nested_form": sheet(b"/X Do", b"/XObject<</X @outer>>", outer=outer, form=form),
        "group": sheet(b"/X Do", b"/XObject<</X @form>>", form=group),
        "two_streams": {
            **sheet(b"", second=second),
            "page": _PAGE.replace(b"@content", b"[@content @second]") + b">>",
        },
        "stamp": sheet(b"", page_keys=b"/Annots[@annotation]", annotation=stamp, look=look),
        "square": sheet(b"", page_keys=b"/Annots[@annotation]", annotation=square, look=look),
        "field": {
            **sheet(b"", page_keys=b"/Annots[@annotation]", annotation=field, look=look),
            "catalog": b"<</Type/Catalog/Pages @pages/AcroForm<</Fields[@annotation]>>>>",
        },
        "lines": sheet(b"1 0 0 RG 20 w 60 90 m 240 270 l S 60 270 m 150 100 240 100 240 270 c S"),
    }


_STREAM = re.compile(rb"(<<.*?>>)\nstream\n(.*)\nendstream", re.DOTALL)
_WRONG_VALUES = (b"null", b"0", b"-1", b"/Nonsense")
_OPTIONAL_KEYS = frozenset({b"Filter", b"DW"})  # without them the object is another one, and whole


def broken_pdfs() -> Iterator[BrokenPdf]:
    """Each sheet with each object of its own replaced, cut or damaged in turn."""
    for name, objects in intact_sheets().items():
        for key in objects:
            if key in ("catalog", "pages"):
                continue
            for fault, changed in _faults_of(objects[key]):
                others = {other: value for other, value in objects.items() if other != key}
                broken = others if changed is None else {**others, key: changed}
                yield BrokenPdf(name=f"{name}, {key}: {fault}", sheet=name, data=write_pdf(broken))


def _faults_of(value: bytes) -> Iterator[tuple[str, bytes | None]]:
    """None: the object is missing."""
    yield "missing", None
    yield "null", b"null"
    yield "a number", b"7"
    yield "an empty dictionary", b"<<>>"
    yield "an empty array", b"[]"
    yield "an empty stream", stream(b"", b"")
    if found := _STREAM.fullmatch(value):
        head, data = found[1], found[2]
        yield "no stream", head
        keys = re.sub(rb"/Length \d+", b"", head)[2:-2]
        for fault, bad in _damages_of(data):
            yield fault, stream(keys, bad)
        yield "wrong length", value.replace(b"/Length ", b"/Length 1", 1)
        yield "unknown filter", stream(re.sub(rb"/Filter\s*(/\w+|\[.*?\])", b"", keys) + b"/Filter/Nonsense", data)
    yield from _dictionary_faults_of(value)


def _damages_of(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "half", data[: len(data) // 2]
    yield "a tenth", data[: len(data) // 10]
    yield "without its end", data[:-6]
    yield "without its beginning", data[20:]
    yield "empty", b""
    yield "other bytes", b"\x9b\x01nonsense" * 40
    for place in (3, 5, 8):
        start = len(data) * place // 10
        yield f"zeros at {place} tenths", data[:start] + bytes(24) + data[start + 24 :]


def _dictionary_faults_of(value: bytes) -> Iterator[tuple[str, bytes]]:
    """A key left out under another name, and values of other kinds for single numbers, names and references."""
    found = _STREAM.fullmatch(value)
    head, rest = (found[1], value[len(found[1]) :]) if found else (value, b"")
    if not head.startswith((b"<<", b"[")):
        return
    for match in re.finditer(rb"/(\w+) ?((?:-?\d[\d.]*(?![\d. ]*\])|/\w+|@\w+))?", head):
        key, simple = match[1], match[2]
        if key in (b"Type", b"Length", b"Parent") or simple is None:
            continue
        before, after = head[: match.start()], head[match.end() :]
        if key not in _OPTIONAL_KEYS:
            yield f"no {key.decode()}", before + after + rest
        for wrong in _WRONG_VALUES[1:] if key in _OPTIONAL_KEYS else _WRONG_VALUES:
            yield f"{key.decode()} {wrong.decode()}", before + b"/" + key + b" " + wrong + after + rest
