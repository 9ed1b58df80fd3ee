"""Counts of values, members and long texts in JSON, wherever its pieces are cut; and what a body may have of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dialects import json_bounds
from service.dialects.body import RequestBody
from service.dialects.json_bounds import MAX_MEMBERS, MAX_TEXT_BYTES, MAX_VALUES, check_json, has_few_values
from service.errors import ServiceError

TEXTS = st.text(st.sampled_from('ab"\\,:[]{}\n\té😀'), max_size=6)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def values_in(value: Any) -> int:
    """An empty array or object counts as if it had one."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return sum(map(values_in, inner)) + max(len(inner), isinstance(value, dict | list))


def members_in(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(members_in, value.values()))
    return sum(map(members_in, value)) if isinstance(value, list) else 0


@given(value=VALUES, step=st.integers(5, 40), is_ascii=st.booleans())
def test_values_and_members_are_counted_as_they_are_whatever_is_in_strings(
    value: Any, step: int, is_ascii: bool
) -> None:
    data = json.dumps(value, ensure_ascii=is_ascii).encode()
    values, members = 1 + values_in(value), members_in(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "_STEP", step)
        assert has_few_values(data, values) and not has_few_values(data, values - 1)
        patch.setattr(json_bounds, "MAX_VALUES", values)
        patch.setattr(json_bounds, "MAX_MEMBERS", members)
        check_json(data)
        for name, limit in (("MAX_VALUES", values - 1), ("MAX_MEMBERS", members - 1)):
            with patch.context() as lower:
                lower.setattr(json_bounds, name, limit)
                with pytest.raises(ServiceError) as refusal:
                    check_json(data)
                assert (refusal.value.status, refusal.value.code) == (413, "too_many_values")


@given(
    length=st.integers(1, 60), step=st.integers(5, 40), wide=st.sampled_from(["é", "😀", "\\u4e2d", "\\ud83d\\ude00"])
)
def test_a_long_text_is_found_wherever_its_wide_character_stands(length: int, step: int, wide: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "_STEP", step)
        patch.setattr(json_bounds, "MAX_TEXT_BYTES", 80)
        text = ("a" * length + wide + "a" * 100).encode()
        with pytest.raises(ServiceError, match="characters that are not ASCII") as refusal:
            check_json(b'{"text": "%s"}' % text)
        assert refusal.value.code == "body_too_large"
        check_json(b'{"text": "%s", "other": "%s"}' % (b"a" * 200, wide.encode()))
        check_json(b'{"text": "%s"}' % (b"a\\u002B\\/\\n\\\\u4e2d" * 20))  # base64 as .NET and PHP escape it


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": [' + b"[]," * MAX_VALUES + b"[]]}",
        b'{"x": [' + b"1," * MAX_VALUES + b"1]}",
        b'{"x": {' + b",".join(b'"%d": 1' % number for number in range(MAX_MEMBERS)) + b"}}",
        b'{"x": "' + "é".encode() * (MAX_TEXT_BYTES // 2 + 1) + b'"}',
    ],
    ids=["arrays", "numbers", "members", "text"],
)
def test_a_body_above_a_bound_is_refused(body: bytes) -> None:
    with pytest.raises(ServiceError, match="which is the limit") as refusal:
        _ = RequestBody([body], content_type="").fields
    assert refusal.value.status == 413


def test_a_body_just_below_the_bounds_is_read() -> None:
    numbers, members = b"1," * (MAX_VALUES - MAX_MEMBERS - 10), b",".join(b'"%d":1' % n for n in range(MAX_MEMBERS - 2))
    text = "é".encode() * (MAX_TEXT_BYTES // 2)
    for body in (
        b'{"x":[%s1],"y":{%s}}' % (numbers, members),
        b'{"x":"%s"}' % text,
        b'{"x":"%s"}' % (b"a," * (5 << 20)),
    ):
        assert RequestBody([body], content_type="").fields["x"]
