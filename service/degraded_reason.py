"""The closed list of reasons why an answer calls a page degraded."""

from enum import StrEnum


class DegradedReason(StrEnum):
    """The kinds of content that a page can lack."""

    MEMORY = "memory"  # drawing it needs more memory than the limit
    IMAGE = "image"  # an image, or a part of one
    FONT = "font"  # letters, or their shapes
    COLOUR = "colour"  # a colour space, pattern or shading
    CONTENT = "content"  # drawing instructions, or an object that they name
    ANNOTATION = "annotation"  # a stamp, comment or form field
    LAYERS = "layers"  # a layer whose visibility cannot be told
    BLANK = "blank"  # the page is white although its content draws something on it
    XFA_FORM = "xfa_form"  # the page stands in for a form that a PDF viewer cannot draw
    PORTFOLIO = "portfolio"  # the page is the cover of attached files
    CHARACTERS = "characters"  # no installed font has some of a text's characters
    UNKNOWN = "unknown"  # the PDF engine warned of a fault that is not known to be harmless
