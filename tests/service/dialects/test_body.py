"""Bodies of JSON: which are read, and what is said about the others."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dialects.body import RequestBody
from service.errors import MalformedBodyError


def fields_of(data: bytes, content_type: str = "application/json") -> dict[str, Any]:
    return RequestBody([data[:3], data[3:]], content_type=content_type).fields


def fault_of(data: bytes, content_type: str = "application/json") -> str:
    with pytest.raises(MalformedBodyError) as caught:
        fields_of(data, content_type)
    assert caught.value.code == "malformed_body"
    return caught.value.message


@pytest.mark.parametrize(
    ("encoding", "charset"),
    [
        ("utf-8-sig", ""),
        ("utf-8-sig", "; charset=utf-8"),
        ("utf-8", '; Charset="UTF-8"'),
        ("utf-8", "; charset=iso-8859-1"),  # which many HTTP clients add unasked
        ("utf-16", "; charset=utf-16"),
        ("utf-16-le", '; charset="UTF-16LE"'),
        ("utf-16-be", "; charset=utf-16be"),
        ("utf-16-le", "; charset=utf-16"),
        ("utf-16-be", "; charset=utf-16"),
    ],
)
def test_a_mark_and_a_declared_encoding_are_read(encoding: str, charset: str) -> None:
    data = '{"query": "für 😀"}'.encode(encoding)
    assert fields_of(data, "application/json" + charset) == {"query": "für 😀"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_that_is_not_declared_is_named(encoding: str) -> None:
    assert "UTF-16. Send UTF-8, or charset=utf-16" in fault_of('{"query": "secret"}'.encode(encoding))


def test_what_is_declared_as_utf_16_and_is_not_is_named() -> None:
    assert "not well-formed UTF-16" in fault_of(b"\xff\xfe{", "application/json; charset=utf-16")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": "secret",\n}', "a comma without a value behind it, in line 2 column 1"),
        (b'["secret", ]', "a comma without a value behind it, in line 1 column 12"),
        (b'{"query": "secret\nb"}', r"query: a raw line break in a string; write it as \\n, in line 1 column 18"),
        (b'{"query": "secret\r\nb"}', r"query: a raw line break in a string; write it as \\r, in line 1 column 18"),
        (b'{\n"a": [{}, {"b": "\tsecret"}]}', r"a\[1\].b: a raw control .* \\t, in line 2 column 18"),
        (b'{"query": "\x01"}', "query: a raw control character in a string; write it as"),
        (b'{"query": NaN}', "NaN is no JSON; send null .* in line 1 column 11"),
        (b'{"query":\n [-Infinity]}', "-Infinity is no JSON; .* in line 2 column 3"),
        (b'{"query": Infinity}', ": Infinity is no JSON; .* in line 1 column 11"),
        (b'{"ignored": {"x": [1,\n{"y": NaN}]}}', ": NaN is no JSON; .* in line 2 column 7"),
        (b'{"documents": [{"metadata": {"x": Infinity}}]}', ": Infinity is no JSON; .* in line 1 column 35"),
        (b'{"ziprerank": {"keep_ratio": -Infinity}}', ": -Infinity is no JSON; .* in line 1 column 30"),
        (b'{"a": nan}', ": nan is no JSON; send null .* in line 1 column 7"),
        (b'{"a": -inf}', ": -inf is no JSON; send null .* in line 1 column 7"),
        (b'{"query": True}', "True is no JSON; send true, in line 1 column 11"),
        (b'{"query": None}', "None is no JSON; send null, in line 1 column 11"),
        (b"{'query': 1}", "in single quotes; send double quotes, in line 1 column 2"),
        (b"{query: 1}", "a key that is no string in double quotes, in line 1 column 2"),
        (b'{"query": 01}', "a number that is not written as in JSON, in line 1 column"),
        (b'{"query" 1}', "a colon is missing, in line 1 column 10"),
        (b'{"a": "secret" "b": 1}', "a comma is missing, in line 1 column 16"),
        (b'{"a": "secret"} x', "something follows its end, in line 1 column 17"),
        (b'{"a": "secret"', "it ends too early, in line 1 column 14"),
        (b'{"a": {"b": "secret', "a.b: it ends too early, in line 1 column"),
        (b'{"query": "C:\\temp\\secret"}', "query: an escape that JSON does not have; .* in line 1 column 20"),
        (b'{"query": "f\xc3\xbcr f\xfcr"}', "query: a string that is not UTF-8, in line 1 column 17"),
        (b'{"query": "ab\\ud83d"}', "query: half of a surrogate pair .*, in line 1 column 14"),
        (b'{"query": "ab\\ud83d cd"}', "query: half of a surrogate pair .*, in line 1 column 14"),
        (b'{"query": "ab\\ud83d\\u0041"}', "query: half of a surrogate pair .*, in line 1 column 14"),
        (b'{"query": "ab\\uDE00 cd"}', "query: half of a surrogate pair .*, in line 1 column 14"),
        (b'{"a": "\\ud83d\\ude00",\n"b": ["", "\\ude00"]}', r"b\[1\]: half of a surrogate .* in line 2 column 12"),
        (b'{"documents": ["\\ud83d\\ude00\\ude00"]}', r"documents\[0\]: half of a surr.* in line 1 column 29"),
        (b'{"a":' + b"[" * 500, "it is nested too deeply"),
        (b"", "it ends too early"),
        (b'{"a": @}', "a value is missing or is no JSON, in line 1 column 7"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_fault_says_where_and_why_and_nothing_of_the_content(body: bytes, message: str) -> None:
    fault = fault_of(body)
    assert re.search(message, fault), fault
    assert fault.startswith("The body is not valid JSON: ") and "secret" not in fault


@pytest.mark.parametrize("lines", [0, 1, 5, 4095, 4096, 100_000])
def test_lines_are_counted_in_bodies_of_any_length(lines: int) -> None:
    assert f"in line {lines + 2} column 3" in fault_of(b'{"a": [' + b"\n" * lines + b"1,\n  @]}")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"query": "a", "documents": [], "query": "b"}', "query"),
        (b'{"documents": [{"image": "a"}, {"text": "b", "id": "c", "text": "d"}]}', "text"),
        (b'{"a": 1, "\\u0061": 2}', "a"),
        (b'{"a": "' + b"b" * 300_000 + b'", "c": 1, "a": 2}', "a"),
    ],
    ids=["whole", "inner", "escaped", "long"],
)
def test_a_member_that_is_there_twice_is_named(body: bytes, name: str) -> None:
    assert fault_of(body) == f"{name}: a JSON object has this member twice. Send it once."


def test_members_of_different_objects_may_have_one_name() -> None:
    body = {"a": {"a": [{"a": 1}, {"a": 2}]}, "b": {"a": 1}}
    assert fields_of(json.dumps(body).encode()) == body
    assert fields_of(b'{"a": ' + b"1" * 4000 + b"}") == {"a": int("1" * 4000)}


_long_strings = st.builds(
    lambda letters, count, tail: letters * count + tail,
    st.sampled_from(["A", "b/", ":1,", '"', "\\", "\n", "ü", ' "a": 1, ', "a\\"]),
    st.sampled_from([1, 60_000, 70_000]),
    st.sampled_from(["", "\\", '"', "\\\\", "]"]),
)


@given(first=_long_strings, second=_long_strings, numbers=st.sampled_from([0, 40_000]))
def test_long_strings_hide_no_member_and_make_none(first: str, second: str, numbers: int) -> None:
    body = {"a": first, "n": [1] * numbers, "b": [second, {"a": first}]}
    data = json.dumps(body, ensure_ascii=False).encode()
    assert fields_of(data) == body
    assert fault_of(data[:-1] + b', "n": 1}').startswith("n: ")


def test_a_document_of_the_usual_size_is_read() -> None:
    body = {"documents": [{"pdf": base64.b64encode(bytes(range(256)) * 8192).decode()}]}
    assert fields_of(json.dumps(body).encode()) == body
