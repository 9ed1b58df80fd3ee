"""The classes of MuPDF's warnings: those that tell of lost content, each with its reason, and those that are harmless.

Evidence: tests/broken_pdfs.py makes 4,000 pages with one thing broken, and each was drawn by MuPDF, which collects the
warnings, and by PDFium. A page is damaged where it differs from the page before the fault, or from PDFium's picture of it, in
more than 2 % of its pixels. Harmless are the classes whose damaged pages all raise another class as well, or draw the same in
both engines. With these classes and the audit beside them no page of the corpus that the engines draw differently is ordinary.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.degraded_reason import DegradedReason as Reason

_MOST_LINES = 2_000

# After these MuPDF goes on and leaves white paper in place of the content; the page must not be scored in silence.
_LOST_TO_MEMORY = (
    "insufficient memory",
    "not enough memory",
    "out of memory",
    "malloc",
    "realloc",
    "calloc",
    "exceeds system limits",  # from OpenJPEG: seen with 500 MiB and a JPEG2000 image of 6,000 × 6,000
)


@dataclass(frozen=True, slots=True)
class WarningClass:
    """The warnings with this text in them, in lower case."""

    sign: str
    reason: Reason | None  # None: harmless
    pages: int = 0  # of the corpus that raise it; 0: it is known from MuPDF's source or from files of the issue tracker
    damaged: int = 0  # of those
    is_of_stream: bool = False  # a look at the page's streams can tell whether anything is missing


# The first class that fits a line counts.
CLASSES = (
    WarningClass("failed to read jpx header", Reason.IMAGE, 4, 4),
    WarningClass("failed to decode jpx image", Reason.IMAGE, 2, 2),
    WarningClass("not enough data to determine image format", Reason.IMAGE, 1, 1),
    WarningClass("openjpeg error", Reason.IMAGE, 6, 6),
    WarningClass("openjpeg warning", None),
    WarningClass("image width is zero", Reason.IMAGE, 79, 79),
    WarningClass("image height is zero", Reason.IMAGE, 75, 75),
    WarningClass("image depth is zero", Reason.IMAGE, 13, 13),
    WarningClass("image depth is too large", Reason.IMAGE),
    WarningClass("image is too", Reason.IMAGE),
    WarningClass("padding truncated image", Reason.IMAGE, 172, 164, is_of_stream=True),
    WarningClass("premature end of file in jpeg", Reason.IMAGE, 8, 7, is_of_stream=True),
    WarningClass("jpeg error", Reason.IMAGE, 12, 12),
    WarningClass("invalid value in color key mask", Reason.IMAGE, 1, 1),
    WarningClass("color key masking", Reason.IMAGE),
    WarningClass("in run length decode", Reason.IMAGE, 3, 2, is_of_stream=True),
    WarningClass("faxd", Reason.IMAGE, 9, 9),
    WarningClass("too many columns", Reason.IMAGE, 1, 1),
    WarningClass("jbig2", Reason.IMAGE),
    WarningClass("png predictor", Reason.IMAGE, 13, 13),
    WarningClass("bad data in ahxd", Reason.CONTENT, 1, 1),
    WarningClass("bad data in a85d", Reason.CONTENT),
    WarningClass("soft mask", Reason.IMAGE),
    WarningClass("syntax error after inline image", Reason.IMAGE, 1, 1),
    WarningClass("unknown image", Reason.IMAGE),
    WarningClass("cannot render glyph", Reason.FONT, 4, 4),
    WarningClass("ft_load_glyph", Reason.FONT, 4, 4),
    WarningClass("ft_new_memory_face", Reason.FONT, 22, 22),
    WarningClass("ignored error when loading embedded font", Reason.FONT, 34, 34),
    WarningClass("non-embedded font using identity encoding", Reason.FONT, 31, 31),
    WarningClass("unknown cid font type", Reason.FONT, 11, 11),
    WarningClass("font missing encoding", Reason.FONT, 4, 4),
    WarningClass("missing font descriptor", Reason.FONT, 2, 2),
    WarningClass("missing charprocs", Reason.FONT, 2, 2),
    WarningClass("no builtin cmap file", Reason.FONT, 2, 2),
    WarningClass("guessing type1 or truetype", None, 25, 10),
    WarningClass("unknown font format", Reason.FONT, 10, 10),
    WarningClass("glyph doesn't specify masked or colored", Reason.FONT, 1, 1),
    WarningClass("cannot load font", Reason.FONT),
    WarningClass("cannot find font resource", Reason.FONT),
    WarningClass("unknown fonttype", Reason.FONT),
    WarningClass("cidfont is missing", Reason.FONT),
    WarningClass("bogus font", None, 4, 0),
    WarningClass("cmap is missing codespace", None, 1, 0),
    WarningClass("too many bytes in codespace", None),
    WarningClass("expected string or endcodespacerange", None, 2, 0),
    WarningClass("expected string", None, 1, 0),
    WarningClass("freetype", None),
    WarningClass("cannot find colorspace resource", Reason.COLOUR, 91, 91),
    WarningClass("could not parse color space", Reason.COLOUR, 88, 84),
    WarningClass("unknown colorspace", Reason.COLOUR, 25, 23),
    WarningClass("invalid icc colorspace", Reason.COLOUR, 39, 39),
    WarningClass("too few components in devicen", Reason.COLOUR, 1, 1),
    WarningClass("icc colorspace n=", Reason.COLOUR, 10, 10),
    WarningClass("ignoring broken icc", None, 59, 36),
    WarningClass("cmsopenprofilefrommem", None, 29, 9),
    WarningClass("cmscreatetransform", None, 4, 0),
    WarningClass("lcms", None, 33, 9),
    WarningClass("falling back to fast color conversion", None, 4, 0),
    WarningClass("blending colorspace", None, 3, 0),
    WarningClass("output intent", None),
    WarningClass("transfer function", None),
    WarningClass("sample function", Reason.COLOUR, 81, 81),
    WarningClass("sample stream", Reason.COLOUR, 5, 5),
    WarningClass("sample function stream", Reason.COLOUR),
    WarningClass("calculator function", Reason.COLOUR, 19, 19),
    WarningClass("not a calculator", Reason.COLOUR),
    WarningClass("unknown operator", Reason.COLOUR, 8, 8),
    WarningClass("unknown function type", Reason.COLOUR, 8, 8),
    WarningClass("function inputs", Reason.COLOUR, 17, 17),
    WarningClass("exponential function", Reason.COLOUR, 4, 3),
    WarningClass("tiling pattern", Reason.COLOUR, 8, 8),
    WarningClass("shading", Reason.COLOUR, 170, 170),
    WarningClass("in mesh", Reason.COLOUR, 9, 9),
    WarningClass("invalid number of bits per", Reason.COLOUR, 15, 15),
    WarningClass("cannot find pattern resource", Reason.COLOUR, 26, 26),
    WarningClass("unknown pattern type", Reason.COLOUR, 28, 28),
    WarningClass("cannot find extgstate resource", None, 26, 13),
    WarningClass("encountered syntax errors", None, 1512, 1495),
    WarningClass("pdf stream length incorrect", None, 22, 0),
    WarningClass("cannot find xobject resource", Reason.CONTENT, 222, 222),
    WarningClass("no xobject subtype", Reason.CONTENT, 234, 234),
    WarningClass("unknown subtype", Reason.CONTENT, 18, 18),
    WarningClass("subtype ps", Reason.CONTENT),
    WarningClass("content stream is not a stream", Reason.CONTENT, 349, 349),
    WarningClass("cannot load content stream", Reason.CONTENT, 12, 12),
    WarningClass("object is not a stream", Reason.CONTENT, 78, 78),
    WarningClass("syntax error in content stream", Reason.CONTENT, 190, 190),
    WarningClass("unknown keyword", Reason.CONTENT, 94, 90),
    WarningClass("premature end of data", Reason.CONTENT, 239, 195, is_of_stream=True),
    WarningClass("ignoring zlib error", Reason.CONTENT, 158, 142, is_of_stream=True),
    WarningClass("ignoring error during interpretation", Reason.CONTENT, 3, 3),
    WarningClass("zlib error", Reason.CONTENT, 117, 113, is_of_stream=True),
    WarningClass("library error", Reason.CONTENT),
    WarningClass("treating as end of file", Reason.CONTENT, 133, 128, is_of_stream=True),
    WarningClass("unknown filter name", Reason.CONTENT, 148, 127, is_of_stream=True),
    WarningClass("array not closed", Reason.CONTENT, 4, 4),
    WarningClass("invalid key in dict", Reason.CONTENT, 2, 2),
    WarningClass("invalid character in hex string", Reason.CONTENT, 9, 8),
    WarningClass("closepath with no current point", None, 3, 3),
    WarningClass("no current point", Reason.CONTENT, 3, 3),
    WarningClass("gstate underflow", Reason.CONTENT, 1, 1),
    WarningClass("page tree load failed", None, 258, 258),
    WarningClass("non-page object in page tree", Reason.CONTENT, 258, 258),
    WarningClass("appearance stream", Reason.ANNOTATION, 6, 6),
    WarningClass("repair", None),
    WarningClass("xref", None),
    WarningClass("startxref", None),
    WarningClass("trailer", None),
    WarningClass("object stream", None),
    WarningClass("into cache", None),
    WarningClass("expected object number", None),
    WarningClass("expected 'endobj'", None),
    WarningClass("expected endobj", None),
    WarningClass("line feed missing", None),
    WarningClass("cr following stream", None),
    WarningClass("aes padding", None),
    WarningClass("document claims", None),
    WarningClass("object missing", None),
    WarningClass("expected generation", None),
    WarningClass("illegal or missing count", None),
    WarningClass("bad parent", None),
    WarningClass("optional content", Reason.LAYERS),
    WarningClass("structure", None),
    WarningClass("... repeated", None, 323, 267),
    WarningClass("invalid marked content", None),
    WarningClass("clip nesting", None),
    WarningClass("image size", None),
    WarningClass("unmatched", None),
)


# The error that MuPDF reports before it says that it goes on without that colour space, which it does not need.
_NOT_NEEDED = re.compile(
    r"^.*(?:colorspace|color space).*\n(?=ignoring (?:broken icc alternate|xobject blending) colorspace)", re.MULTILINE
)


def reasons_of(warnings: str, *, streams_are_whole: bool = False) -> frozenset[Reason]:
    """The kinds of lost content that MuPDF's warnings about one page tell of; `unknown` for a warning without a class.

    streams_are_whole: the page's streams were looked at, and nothing is missing in them.
    """
    lowered = warnings.lower()
    if any(sign in lowered for sign in _LOST_TO_MEMORY):
        return frozenset({Reason.MEMORY})
    reasons = set()
    for line in _lines_of(lowered):
        warning_class = _class_of(line)
        if warning_class is None:
            reasons.add(Reason.UNKNOWN)
        elif warning_class.reason is not None and not (streams_are_whole and warning_class.is_of_stream):
            reasons.add(warning_class.reason)
    return frozenset(reasons)


def depend_on_streams(warnings: str) -> bool:
    """Whether a look at the page's streams may show that one of these warnings tells of no loss."""
    return any(
        warning_class.is_of_stream
        for line in _lines_of(warnings.lower())
        if (warning_class := _class_of(line)) is not None
    )


def _lines_of(lowered: str) -> Iterator[str]:
    """Each line once that is not blank."""
    lines = set(_NOT_NEEDED.sub("", lowered).split("\n", _MOST_LINES))  # the last of them may hold all others
    return (line for line in lines if line.strip())


def _class_of(line: str) -> WarningClass | None:
    return next((warning_class for warning_class in CLASSES if warning_class.sign in line), None)
