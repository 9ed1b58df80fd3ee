"""Base64 and data URIs as senders write them, and the reasons for which others are refused."""

import base64
import re
import textwrap
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.documents.inline_data import decode_inline
from service.errors import TooLargeError, UnusableDocumentError

DATA = b"%PDF-1.7 \xff\xfb\xbe\n"
STANDARD = base64.b64encode(DATA).decode()
STEP = 1 << 20
PLENTY = 1 << 24


@pytest.mark.parametrize(
    "head",
    [
        "data:application/pdf;base64,",
        "data:;base64,",
        "data:a/b;charset=utf-8;base64,",
        "DATA:Application/PDF;BASE64,",
        f"data:application/pdf;name={'a' * 5000}.pdf;base64,",
        "data:application/pdf;filename=a%2Cb.pdf;a=1;b=2;c=3;base64,",
        'data:application/pdf;name="a b.pdf";base64,',
        "data:application/pdf;base64, ",
        " data:application/pdf; base64 ,\r\n",
        "",
    ],
    ids=lambda head: head[:30],
)
def test_parameters_of_a_data_uri_are_passed_over(head: str) -> None:
    assert decode_inline(head + STANDARD, PLENTY) == DATA


@given(
    data=st.binary(min_size=1, max_size=100),
    width=st.integers(1, 100),
    is_url_safe=st.booleans(),
    is_padded=st.booleans(),
    is_escaped=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n", " ", "\t"]),
)
def test_every_unambiguous_form_of_base64_is_read(
    data: bytes, width: int, is_url_safe: bool, is_padded: bool, is_escaped: bool, line_end: str
) -> None:
    text = (base64.urlsafe_b64encode if is_url_safe else base64.b64encode)(data).decode()
    text = line_end.join(textwrap.wrap(text if is_padded else text.rstrip("="), width)) + line_end
    text = urllib.parse.quote(text, safe="") if is_escaped else text
    assert decode_inline(text, PLENTY) == decode_inline(f"data:a/b;base64,{text}", PLENTY) == data


@pytest.mark.parametrize("place", range(STEP - 4, STEP + 2))
@pytest.mark.parametrize("inserted", ["", "\n", "\r\n\r\n"])
def test_line_breaks_and_groups_of_four_may_be_on_both_sides_of_a_step_end(place: int, inserted: str) -> None:
    data = bytes(range(256)) * (STEP // 256)
    text = base64.b64encode(data).decode()
    assert decode_inline(text[:place] + inserted + text[place:], PLENTY) == data


@pytest.mark.parametrize("place", range(STEP - 4, STEP + 2))
def test_an_escape_may_be_on_both_sides_of_a_step_end(place: int) -> None:
    data = bytes(range(256)) * (STEP // 256)
    text = base64.b64encode(data).decode()
    assert decode_inline(f"{text[:place]}%{ord(text[place]):02X}{text[place + 1 :]}", PLENTY) == data


@pytest.mark.parametrize("size", range(STEP - 3, STEP + 3))
def test_padding_may_be_on_both_sides_of_a_step_end(size: int) -> None:
    text = "\n" * (size % 4) + "AAAA" * (size // 4) + "QQ=="
    assert decode_inline(text, PLENTY)[-1:] == b"A"


def test_a_data_uri_without_base64_is_percent_encoded() -> None:
    assert decode_inline("data:application/pdf," + urllib.parse.quote(DATA), PLENTY) == DATA
    assert decode_inline("data:text/plain;charset=utf-8,%25PDF ä", PLENTY) == "%PDF ä".encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("QUJD!UJD", "the character at position 5 is none of"),
        ("data:a/b;base64,QUJ\u00e4", "the character at position 20 is none of"),
        ("A" * STEP + "AA\u2028A", f"the character at position {STEP + 3} is none of"),
        ("QUI=QUJD", "padding before its end"),
        ("A" * (STEP - 2) + "==" + "AAAA", "padding before its end"),
        ("=QUJ", "padding before its end|does not fit"),
        ("QQ=", "padding does not fit its length"),
        ("QUJD=", "padding does not fit its length"),
        ("QUJD====", "padding does not fit its length"),
        ("QUJDR", "cut off"),
        ("A" * (STEP + 1), "cut off"),
        ("QUJD%2", "the % at position 5 is not followed by two hexadecimal digits"),
        ("QUJD%ZZ==", "the % at position 5"),
        ("A" * STEP + "AAA%", f"the % at position {STEP + 4}"),
        ("%2E%2E%2E%2E", "an encoded character"),
        ("data:application/pdf;base64", "a comma before its data"),
        ("data:a/b,%4", "the % at position 10"),
    ],
    ids=lambda value: value[:24],
)
def test_anything_else_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(UnusableDocumentError, match=reason) as caught:
        decode_inline(text, PLENTY)
    assert (caught.value.code, caught.value.field) == ("invalid_base64", "content")
    assert not re.search("QUJD|AAAA", caught.value.message)


@pytest.mark.parametrize(
    "text", ["A" * 4 * STEP, "data:a/b," + "A" * 4 * STEP, "%41" * STEP, "\n" * STEP + "AAAA" * 400]
)
def test_more_bytes_than_the_limit_are_refused(text: str) -> None:
    with pytest.raises(TooLargeError, match="the limit is 1000"):
        decode_inline(text, 1000)


def test_spaces_do_not_count_for_the_limit() -> None:
    assert decode_inline("\n" * 5000 + STANDARD, len(DATA)) == DATA
