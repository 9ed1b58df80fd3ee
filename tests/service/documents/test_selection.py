import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.documents.selection import PageSelection, parse_page_selection
from service.errors import InvalidRequestError, PageOutOfRangeError


def resolve(selection: PageSelection, page_count: int) -> tuple[int, ...]:
    return tuple(number for span in selection.spans(page_count) for number in span)


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("3", (3,)),
        ("1-3", (1, 2, 3)),
        ("4-", (4, 5, 6)),
        ("3,1-2", (3, 1, 2)),
        (" 1 - 2 , 6 ", (1, 2, 6)),
        ("2-4,1-5", (2, 3, 4, 1, 5)),
        ("5,1-,2", (5, 1, 2, 3, 4, 6)),
        ("006", (6,)),
    ],
)
def test_pages_come_in_the_order_written_without_duplicates(text: str, pages: tuple[int, ...]) -> None:
    assert resolve(parse_page_selection(text), 6) == pages


@pytest.mark.parametrize(
    ("text", "pages", "missing"),
    [
        ("3,99", (3,), 99),
        ("2-9,1", (2, 3, 4, 5, 6, 1), 9),
        ("7-,8", (), 7),
        ("5-", (5, 6), None),
        ("9-12", (), 12),
    ],
)
def test_pages_that_exist_are_told_from_the_first_one_that_does_not(
    text: str, pages: tuple[int, ...], missing: int | None
) -> None:
    selection = parse_page_selection(text)
    spans = selection.existing_spans(6)
    assert all(spans) and tuple(number for span in spans for number in span) == pages
    assert selection.first_missing(6) == missing


@pytest.mark.parametrize(
    "text", ["", " ", "a", "1,", ",1", "-3", "1-2-3", "1;2", "1.5", "+1", "٣", "1\n", "1234567890"]
)
def test_other_syntax_is_an_invalid_request(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_page_selection(text)


@pytest.mark.parametrize("text", ["0", "0-3", "1-0", "3-2", "1,5-4"])
def test_page_zero_and_backward_ranges_are_out_of_range(text: str) -> None:
    with pytest.raises(PageOutOfRangeError):
        parse_page_selection(text)


@pytest.mark.parametrize("text", ["7", "1-7", "7-", "1-999999999", "1,7"])
def test_page_beyond_the_end_names_the_page_and_the_page_count(text: str) -> None:
    with pytest.raises(PageOutOfRangeError) as caught:
        resolve(parse_page_selection(text), 6)
    assert "6 page(s)" in caught.value.message
    assert "7" in caught.value.message or "999999999" in caught.value.message


def test_text_longer_than_the_bound_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="1001 characters"):
        parse_page_selection("1" * 1_001)


def test_message_does_not_repeat_the_text_of_the_client() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_page_selection("1,<script>")
    assert "script" not in caught.value.message


def test_repeated_open_ranges_cost_no_more_than_one() -> None:
    selection = parse_page_selection(",".join(["1-"] * 300))
    assert selection.spans(10_000_000) == (range(1, 10_000_001),)


ranges = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9)), min_size=1, max_size=8)


@given(ranges)
def test_spans_equal_expanding_and_dropping_duplicates(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" for first, more in ranges)
    expanded = [number for first, more in ranges for number in range(first, first + more + 1)]
    assert resolve(parse_page_selection(text), 40) == tuple(dict.fromkeys(expanded))
