"""The bytes of a document that a string carries: base64, or a data URI (RFC 2397), whose parameters are passed over.

Base64 is read in both alphabets (RFC 4648, sections 4 and 5), with or without padding, with line breaks and spaces inside, and
percent-encoded: each has one meaning. Works in steps, so that decoding 30 MB in a thread does not hold the interpreter for
80 ms at a stretch.
"""

import binascii
import re
from collections.abc import Iterator

import numpy as np

from service.errors import TooLargeError, UnusableDocumentError

_DATA_URI = re.compile(r"\s*data:", re.IGNORECASE)
_ENDS_AS_BASE64 = re.compile(r";\s*base64\s*\Z", re.IGNORECASE)
_LONGEST_END = 64  # characters of what is before the comma that are searched for `;base64`
_STEP = 1 << 20  # characters: a step holds the interpreter for about 3 ms
_SPACES = b" \t\r\n\f"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HEX_DIGITS = np.full(256, 255, np.uint8)  # the value of each digit by its code
_HEX_DIGITS[list(b"0123456789abcdef")] = _HEX_DIGITS[list(b"0123456789ABCDEF")] = np.arange(16)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=_% \t\r\n\f-]")


def decode_inline(text: str, max_bytes: int) -> bytearray:
    """The bytes. Raises: UnusableDocumentError, with the reason; TooLargeError where there are more than max_bytes."""
    head = _DATA_URI.match(text)
    if head is None:
        return _decode_base64(text, 0, max_bytes)
    comma = text.find(",", head.end())
    if comma < 0:
        raise UnusableDocumentError(
            "invalid_base64", "a data URI has a comma before its data, and this one has none.", field="content"
        )
    if _ENDS_AS_BASE64.search(text, max(head.end(), comma - _LONGEST_END), comma):
        return _decode_base64(text, comma + 1, max_bytes)
    decoded = bytearray()
    for _, piece in _pieces(text, comma + 1):
        decoded += piece
        _require_size(decoded, max_bytes)
    return decoded


def _decode_base64(text: str, start: int, max_bytes: int) -> bytearray:
    decoded, left = bytearray(), b""
    before = start
    for place, piece in _pieces(text, start):
        letters = piece.translate(_TO_STANDARD, _SPACES)
        if b"=" in letters.rstrip(b"=") or (b"=" in left and letters.strip(b"=")):
            raise _unreadable(text, before, place)
        left += letters
        if not left.endswith(b"="):
            whole = len(left) // 4 * 4
            decoded += _decode_whole(left[:whole], text, before, place)
            left = left[whole:]
        before = place
        _require_size(decoded, max_bytes)
    letters = left.rstrip(b"=")
    padding = len(left) - len(letters)
    if padding and (padding > 2 or len(left) % 4):
        raise _refused("its padding does not fit its length. Send all characters, with or without padding.")
    if len(letters) % 4 == 1:
        raise _refused("it is cut off: one character is left over. Send all characters.")
    decoded += _decode_whole(letters + b"=" * (-len(letters) % 4), text, before, before)
    _require_size(decoded, max_bytes)
    return decoded


def _decode_whole(letters: bytes, text: str, before: int, place: int) -> bytes:
    try:
        return binascii.a2b_base64(letters, strict_mode=True)
    except binascii.Error:
        raise _unreadable(text, before, place) from None


def _unreadable(text: str, before: int, place: int) -> UnusableDocumentError:
    """before: where the piece before the one at `place` begins, of which characters may be left."""
    if wrong := _NOT_BASE64.search(text, before, place + _STEP):
        return _refused(f"the character at position {wrong.start() + 1} is none of A-Z a-z 0-9 + / - _ and =.")
    return _refused("there is padding before its end, or an encoded character is none of A-Z a-z 0-9 + / - _ and =.")


def _pieces(text: str, start: int) -> Iterator[tuple[int, bytes]]:
    """The text from `start` on as UTF-8, less its percent-encoding, and the places of the pieces in it."""
    has_escapes = text.find("%", start) >= 0
    while start < len(text):
        end = start + _STEP
        if has_escapes:
            cut = text.rfind("%", end - 2, end)
            end = cut if cut > start else end  # not in the middle of an escape
        piece = text[start:end]
        encoded = piece.encode(errors="surrogatepass")
        if has_escapes:
            decoded = _without_escapes(encoded)
            if decoded is None:
                broken = _BROKEN_ESCAPE.search(piece)
                position = start + (broken.start() if broken else 0) + 1
                raise _refused(f"the % at position {position} is not followed by two hexadecimal digits.")
            encoded = decoded
        yield start, encoded
        start = end


def _without_escapes(encoded: bytes) -> bytes | None:
    """Percent-decoded; None where an escape is broken. By arrays: `urllib` takes a second for 10 MB in which all is escaped."""
    letters = np.frombuffer(encoded + b"  ", np.uint8)  # behind an escape that is cut off
    places = np.flatnonzero(letters == ord("%"))
    high, low = _HEX_DIGITS[letters[places + 1]], _HEX_DIGITS[letters[places + 2]]
    if (high > 15).any() or (low > 15).any():
        return None
    decoded = letters.copy()
    decoded[places] = high * 16 + low
    is_kept = np.ones(len(letters), bool)
    is_kept[-2:] = is_kept[places + 1] = is_kept[places + 2] = False
    return decoded[is_kept].tobytes()


def _refused(reason: str) -> UnusableDocumentError:
    return UnusableDocumentError("invalid_base64", f"not base64: {reason}", field="content")


def _require_size(data: bytearray, limit: int) -> None:
    if len(data) > limit:
        message = f"{len(data)} bytes or more and the limit is {limit}. Send fewer pages or smaller images."
        raise TooLargeError("file_too_large", message, field="content")
