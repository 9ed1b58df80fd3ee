# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""Finds the faults in what a page is drawn with that MuPDF passes over without a warning.

It guesses a font for one that is missing, bits for an image that names none, and an exponent for a function without one; other
viewers draw nothing there, or something else. The calls that begin with `ll_` are five times as fast as the others and borrow
the objects from the open document.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from pymupdf import mupdf

from service.degraded_reason import DegradedReason as Reason
from service.raster.pdf_layers import Layers

_get = mupdf.ll_pdf_dict_gets
_name = mupdf.ll_pdf_to_name
_is_array = mupdf.ll_pdf_is_array
_is_dict = mupdf.ll_pdf_is_dict
_is_name = mupdf.ll_pdf_is_name
_is_number = mupdf.ll_pdf_is_number
_is_stream = mupdf.ll_pdf_is_stream
_length = mupdf.ll_pdf_array_len
_item = mupdf.ll_pdf_array_get

_Reasons = frozenset[Reason]
_NONE: _Reasons = frozenset()
_IMAGE: _Reasons = frozenset({Reason.IMAGE})
_FONT: _Reasons = frozenset({Reason.FONT})
_COLOUR: _Reasons = frozenset({Reason.COLOUR})
_LAYERS: _Reasons = frozenset({Reason.LAYERS})
_ANNOTATION: _Reasons = frozenset({Reason.ANNOTATION})

_MOST_OBJECTS = 5_000  # of one page; the rest of them is not looked at
_MOST_KINDS = 100  # of resources; the standard has 8
_MOST_DEPTH = 8  # of objects that name each other
_MOST_CONTENT_BYTES = 128 << 10  # of a page's instructions that are searched for fonts
_NOT_FOR_VIEWING = 2 | 32  # the flags Hidden and NoView of annotations
_FONT_OPERATOR = re.compile(rb"/([^\s/\[\]()<>{}%]*)\s+[-+.\d]+\s+Tf\b")
_PAINTING_OPERATOR = re.compile(rb"(?:^|[\s\])>])(?:f\*?|F|[bB]\*?|[sS]|sh|Do|EI|Tj|TJ|'|\")(?=[\s/\[(<]|$)")

_FILTERS_WITH_OWN_DEPTH = frozenset({"CCITTFaxDecode", "CCF", "JBIG2Decode", "DCTDecode", "DCT", "JPXDecode"})
_FILTERS = _FILTERS_WITH_OWN_DEPTH | {
    *("ASCIIHexDecode", "AHx", "ASCII85Decode", "A85", "LZWDecode", "LZW", "FlateDecode", "Fl"),
    *("RunLengthDecode", "RL", "Crypt", "BrotliDecode"),
}
_STANDARD_FAMILIES = re.compile(
    r"(?:[A-Z]{6}\+)?(?:Courier|Helvetica|Times|Symbol|ZapfDingbats|Arial|TimesNewRoman|CourierNew)(?:PS)?(?:MT)?"
    r"(?:[-,](?:Roman|Regular|Bold|Italic|Oblique|BoldItalic|BoldOblique)(?:MT)?)?"
)
_COLOUR_SPACES = frozenset(
    {
        *(
            "DeviceGray",
            "DeviceRGB",
            "DeviceCMYK",
            "G",
            "RGB",
            "CMYK",
            "Pattern",
            "CalGray",
            "CalRGB",
            "CalCMYK",
            "Lab",
        ),
        *("ICCBased", "Indexed", "I", "Separation", "DeviceN"),
    }
)


class ResourceAudit:
    """The faults in the resources of one document's pages. An object that several pages share is looked at once."""

    def __init__(self, layers: Layers | None = None) -> None:
        """layers: of the document; their states are decided where a page uses them."""
        self._layers = layers
        self._known: dict[tuple[int, str], _Reasons] = {}  # by object number and kind
        self._budget = 0

    def page(self, page: Any) -> _Reasons:
        """page: the page's PdfObj."""
        self._budget = _MOST_OBJECTS
        page = page.m_internal
        resources = mupdf.ll_pdf_dict_gets_inheritable(page, "Resources")
        found = self._resources(resources, 0) | self._annotations(_get(page, "Annots"))
        return found | _LAYERS if self._layers is not None and self._budget <= 0 else found

    def _resources(self, resources: Any, depth: int) -> _Reasons:
        found = _NONE
        for place in range(min(mupdf.ll_pdf_dict_len(resources), _MOST_KINDS)):
            kind = _name(mupdf.ll_pdf_dict_get_key(resources, place))
            audit = self._audit_of(kind)
            if audit is None:
                continue
            entries = mupdf.ll_pdf_dict_get_val(resources, place)
            for position in range(min(mupdf.ll_pdf_dict_len(entries), self._budget)):
                found |= self._once(mupdf.ll_pdf_dict_get_val(entries, position), kind, audit, depth)
        return found

    def _audit_of(self, kind: str) -> Callable[[Any, int], _Reasons] | None:
        match kind:
            case "Font":
                return self._font
            case "XObject":
                return self._x_object
            case "ColorSpace":
                return self._colour_space
            case "Pattern":
                return self._pattern
            case "Shading":
                return self._shading
            case "ExtGState":
                return self._state
            case "Properties" if self._layers is not None:
                return self._layer
        return None

    def _layer(self, membership: Any, depth: int) -> _Reasons:
        return _NONE if self._layers is None or self._layers.resolve(membership) else _LAYERS

    def _layer_of(self, value: Any, depth: int) -> _Reasons:
        """Of an object that is on a layer as a whole."""
        if self._layers is None or (membership := _get(value, "OC")) is None:
            return _NONE
        return self._once(membership, "Properties", self._layer, depth)

    def _once(self, value: Any, kind: str, audit: Callable[[Any, int], _Reasons], depth: int) -> _Reasons:
        """The faults of an object, from memory where it has a number and was seen before."""
        self._budget -= 1
        if depth > _MOST_DEPTH or self._budget < 0:
            return _NONE if self._layers is None else _LAYERS
        number = mupdf.ll_pdf_to_num(value)
        if not number:
            return audit(value, depth + 1)
        key = (number, kind)
        if (known := self._known.get(key)) is not None:
            return known
        self._known[key] = _NONE  # an object that names itself ends here
        found = self._known[key] = audit(value, depth + 1)
        return found

    def _font(self, font: Any, depth: int) -> _Reasons:
        subtype = _name(_get(font, "Subtype"))
        if subtype == "Type3":
            return (_NONE if _is_whole_drawn_font(font) else _FONT) | self._resources(_get(font, "Resources"), depth)
        if subtype == "Type0":
            return _NONE if _is_drawable_composite(font) else _FONT
        return _NONE if _is_drawable_font(font) else _FONT

    def _x_object(self, value: Any, depth: int) -> _Reasons:
        if not _is_stream(value):
            return _NONE  # MuPDF warns when it is drawn
        found = self._layer_of(value, depth)
        match _name(_get(value, "Subtype")):
            case "Image":
                found |= self._image(value, depth)
            case "Form":
                found |= self._form(value, depth)
        return found

    def _form(self, form: Any, depth: int) -> _Reasons:
        return self._resources(_get(form, "Resources"), depth)

    def _image(self, image: Any, depth: int) -> _Reasons:
        filters = list(_filter_names(_get(image, "Filter")))
        is_stencil = bool(mupdf.ll_pdf_to_bool(_get(image, "ImageMask")))
        is_jpeg2000 = "JPXDecode" in filters
        bits = _get(image, "BitsPerComponent")
        is_whole = (
            _FILTERS.issuperset(filters)
            and mupdf.ll_pdf_to_int(_get(image, "Width")) > 0
            and mupdf.ll_pdf_to_int(_get(image, "Height")) > 0
            and (
                mupdf.ll_pdf_to_int(bits) in (0, 1)
                if is_stencil
                else not _FILTERS_WITH_OWN_DEPTH.isdisjoint(filters) or mupdf.ll_pdf_to_int(bits) in (1, 2, 4, 8, 16)
            )
            and not _has_other_columns(image, filters)
        )
        found = _NONE if is_whole else _IMAGE
        if not is_stencil:
            space = _get(image, "ColorSpace")
            if space is not None:
                found |= self._once(space, "ColorSpace", self._colour_space, depth)
            elif not is_jpeg2000:
                found |= _COLOUR
            for key in ("SMask", "Mask"):
                mask = _get(image, key)
                if _is_stream(mask):
                    found |= self._once(mask, "XObject", self._mask, depth)
                elif mask is not None and not (key == "Mask" and _is_array(mask)):
                    found |= _IMAGE
        return found

    def _mask(self, mask: Any, depth: int) -> _Reasons:
        is_grey = _name(_get(mask, "ColorSpace")) in ("DeviceGray", "G") or mupdf.ll_pdf_to_bool(
            _get(mask, "ImageMask")
        )
        is_known = is_grey or "JPXDecode" in _filter_names(_get(mask, "Filter")) or _is_array(_get(mask, "ColorSpace"))
        return self._image(mask, depth) | (_NONE if is_known else _IMAGE)

    def _colour_space(self, space: Any, depth: int) -> _Reasons:
        if _is_name(space):
            return _NONE if _name(space) in _COLOUR_SPACES else _COLOUR
        if not _is_array(space):
            return _COLOUR
        family, first = _name(_item(space, 0)), _item(space, 1)
        match family:
            case "ICCBased":
                is_whole = _is_stream(first) and mupdf.ll_pdf_to_int(_get(first, "N")) in (1, 3, 4)
                return _NONE if is_whole else _COLOUR
            case "Lab" | "CalRGB" | "CalGray":
                return _NONE if _length(_get(first, "WhitePoint")) == 3 else _COLOUR
            case "Indexed" | "I":
                table = _item(space, 3)
                is_whole = _is_stream(table) or mupdf.ll_pdf_is_string(table)
                return self._once(first, "ColorSpace", self._colour_space, depth) | (_NONE if is_whole else _COLOUR)
            case "Separation" | "DeviceN":
                return self._once(_item(space, 2), "ColorSpace", self._colour_space, depth) | self._once(
                    _item(space, 3), "Function", self._function, depth
                )
        is_whole = family == "Pattern" or (family in _COLOUR_SPACES and _length(space) == 1)
        return _NONE if is_whole else _COLOUR

    def _function(self, function: Any, depth: int) -> _Reasons:
        if _is_array(function) or mupdf.ll_pdf_to_int(_get(function, "FunctionType")) == 3:
            parts = function if _is_array(function) else _get(function, "Functions")
            found = _NONE if _length(parts) else _COLOUR
            for position in range(min(_length(parts), max(self._budget, 0))):
                found |= self._once(_item(parts, position), "Function", self._function, depth)
            return found
        is_whole = _is_stream(function) or _is_number(_get(function, "N"))
        return _NONE if is_whole or _name(function) in ("Identity", "Default") else _COLOUR

    def _pattern(self, pattern: Any, depth: int) -> _Reasons:
        if mupdf.ll_pdf_to_int(_get(pattern, "PatternType")) == 2:
            return self._once(_get(pattern, "Shading"), "Shading", self._shading, depth)
        is_whole = mupdf.ll_pdf_to_int(_get(pattern, "PaintType")) in (1, 2)
        return self._form(pattern, depth) | (_NONE if is_whole else _COLOUR)

    def _shading(self, shading: Any, depth: int) -> _Reasons:
        found = self._once(_get(shading, "ColorSpace"), "ColorSpace", self._colour_space, depth)
        function = _get(shading, "Function")
        if function is not None:
            found |= self._once(function, "Function", self._function, depth)
        elif mupdf.ll_pdf_to_int(_get(shading, "ShadingType")) in (1, 2, 3):
            found |= _COLOUR
        return found

    def _state(self, state: Any, depth: int) -> _Reasons:
        mask = _get(state, "SMask")
        if not _is_dict(mask):
            return _NONE
        group = _get(mask, "G")
        if _name(_get(mask, "S")) not in ("Alpha", "Luminosity") or not _is_stream(group):
            return _COLOUR
        return self._once(group, "XObject", self._form, depth)

    def _annotations(self, annotations: Any) -> _Reasons:
        found = _NONE
        for position in range(min(_length(annotations), max(self._budget, 0))):
            found |= self._once(_item(annotations, position), "Annots", self._annotation, 0)
        return found

    def _annotation(self, annotation: Any, depth: int) -> _Reasons:
        if not _is_dict(annotation):
            return _ANNOTATION
        if mupdf.ll_pdf_to_int(_get(annotation, "F")) & _NOT_FOR_VIEWING:
            return _NONE
        return self._layer_of(annotation, depth) | self._look(annotation, depth)

    def _look(self, annotation: Any, depth: int) -> _Reasons:
        looks = _get(annotation, "AP")
        subtype = _name(_get(annotation, "Subtype"))
        if subtype == "Widget" and _get(annotation, "FT") is None and _get(annotation, "Parent") is None:
            return _ANNOTATION  # MuPDF draws no field without a type
        if looks is None:  # MuPDF draws its own look, which for a stamp is another word
            return _ANNOTATION if subtype == "Stamp" else _NONE
        look = _get(looks, "N")
        if subtype == "Popup":
            return _NONE  # no viewer draws it
        if subtype == "Link":  # MuPDF does not draw its look, which few have
            return _ANNOTATION if _is_stream(look) and mupdf.ll_pdf_to_int(_get(look, "Length")) else _NONE
        if _is_stream(look):
            return self._once(look, "XObject", self._form, depth)
        states = mupdf.ll_pdf_dict_len(look)
        if subtype == "Widget" and _is_dict(look):
            return _NONE  # a button whose state has no look
        has_look = any(_is_stream(mupdf.ll_pdf_dict_get_val(look, position)) for position in range(min(states, 100)))
        return _NONE if has_look else _ANNOTATION


def _is_drawable_font(font: Any) -> bool:
    """Whether a simple font is embedded, or tells enough to put another one in its place."""
    if _get(font, "Widths") is not None and not _has_range(font):
        return False
    descriptor = _get(font, "FontDescriptor")
    if _has_program(descriptor):
        return True
    if not _is_name(_get(font, "BaseFont")):
        return False
    if _STANDARD_FAMILIES.fullmatch(_name(_get(font, "BaseFont"))):
        return True
    encoding = _get(font, "Encoding")
    return bool(_is_dict(descriptor)) and bool(_is_name(encoding) or _is_dict(encoding))


def _has_range(font: Any) -> bool:
    """Whether the font names the first and the last character that its widths are for, and has a width for each."""
    first, last = _get(font, "FirstChar"), _get(font, "LastChar")
    if not _is_number(first) or not _is_number(last):
        return False
    count = mupdf.ll_pdf_to_int(last) - mupdf.ll_pdf_to_int(first) + 1
    return bool(mupdf.ll_pdf_to_int(first) >= 0 and 0 < count <= _length(_get(font, "Widths")))


def _is_whole_drawn_font(font: Any) -> bool:
    """Whether a Type 3 font has procedures, and names for its characters."""
    names = _get(_get(font, "Encoding"), "Differences")
    has_name = any(_is_name(_item(names, position)) for position in range(min(_length(names), 300)))
    procedures = _get(font, "CharProcs")
    count = min(mupdf.ll_pdf_dict_len(procedures), 300)
    is_drawn = all(_is_stream(mupdf.ll_pdf_dict_get_val(procedures, position)) for position in range(count))
    return count > 0 and is_drawn and has_name and _has_range(font)


def _is_drawable_composite(font: Any) -> bool:
    """Whether a composite font is embedded, or has a character collection by which another one can stand in."""
    descendant = _item(_get(font, "DescendantFonts"), 0)
    if _name(_get(descendant, "Subtype")) not in ("CIDFontType0", "CIDFontType2") or _get(font, "Encoding") is None:
        return False
    width = _get(descendant, "DW")
    if width is not None and not _is_number(width):
        return False
    if _has_program(_get(descendant, "FontDescriptor")):
        return True
    ordering = mupdf.ll_pdf_to_text_string(_get(_get(descendant, "CIDSystemInfo"), "Ordering"))
    return ordering not in ("", "Identity")


def _has_program(descriptor: Any) -> bool:
    return any(_is_stream(_get(descriptor, key)) for key in ("FontFile2", "FontFile3", "FontFile"))


def _filter_names(value: Any) -> Iterator[str]:
    """The names of an image's filters; an empty name for a value that is none."""
    if value is None:
        return
    if not _is_array(value):
        yield _name(value)
        return
    for position in range(min(_length(value), 100)):
        yield _name(_item(value, position))


def _has_other_columns(image: Any, filters: list[str]) -> bool:
    """Whether a fax image is coded with rows of another width."""
    if not filters or filters[-1] not in ("CCITTFaxDecode", "CCF"):
        return False
    parameters = _get(image, "DecodeParms")
    if _is_array(parameters):
        parameters = _item(parameters, len(filters) - 1)
    columns = _get(parameters, "Columns")
    rows = mupdf.ll_pdf_to_int(_get(parameters, "Rows"))
    coded = mupdf.ll_pdf_to_int(columns) if columns is not None else 1728
    return bool(rows < 0 or coded != mupdf.ll_pdf_to_int(_get(image, "Width")))


class PageContent:
    """The beginning of a page's own instructions, without those of the forms that it draws."""

    def __init__(self, document: Any, page: Any) -> None:
        """document, page: the PdfDocument, which the caller keeps, and the page's PdfObj.

        The page is not asked for its document: to let go of that costs MuPDF its glyphs, and the next page twice the time.
        """
        self._fonts = _get(mupdf.ll_pdf_dict_gets_inheritable(page.m_internal, "Resources"), "Font")
        self._text = _read_content(document, mupdf.pdf_dict_gets(page, "Contents"))

    def missing_fonts(self) -> _Reasons:
        """MuPDF writes in a font of its own where the page's fonts lack the one that an instruction names."""
        names = set(_FONT_OPERATOR.findall(self._text))
        is_missing = any(b"#" not in name and not _is_dict(_get(self._fonts, name.decode("latin-1"))) for name in names)
        return _FONT if is_missing else _NONE

    def may_paint(self) -> bool:
        """False: the page is blank, its annotations apart."""
        return len(self._text) >= _MOST_CONTENT_BYTES or _PAINTING_OPERATOR.search(self._text) is not None


def _read_content(document: Any, contents: Any) -> bytes:
    """Empty where it cannot be read: MuPDF warns of that when it draws the page."""
    try:
        stream = mupdf.fz_open_null_filter(mupdf.pdf_open_contents_stream(document, contents), _MOST_CONTENT_BYTES, 0)
        return bytes(mupdf.fz_buffer_extract(mupdf.fz_read_all(stream, 4096)))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (the engine's errors have no common class)
        return b""
