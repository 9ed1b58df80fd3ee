"""The conversations, in the wordings of the public files, and what in a record makes it unusable."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.training.errors import DataError
from model.training.examples import RankingExample
from model.training.rank_zephyr import TextPage, read_rank_zephyr

PASSAGES = ("Tides rise twice a day.", "A mirror is cleaned with water.", "Sensors fail in the cold.")
LETTERS = "ABCDEFGHIJKLMNOPQRSTU"


def human_turn(
    passages: Sequence[str] = PASSAGES,
    *,
    query: str = "How is a mirror cleaned?",
    names: Sequence[str] = LETTERS,
    count: int | None = None,
) -> str:
    count = count or len(passages)
    listed = "\n".join(f"[{name}] {passage}" for name, passage in zip(names, passages, strict=False))
    return (
        f"I will provide you with {count} passages, each indicated by a alphabetical identifier []. Rank the passages based on "
        f"their relevance to the search query: {query}.\n\n{listed}\n\nSearch Query: {query}.\nRank the {count} passages above "
        "based on their relevance to the search query. All the passages should be included and listed using identifiers, in "
        "descending order of relevance. The output format should be [] > [], e.g., [D] > [B], Only respond with the ranking."
    )


def record(human: str | None = None, ranking: str = "[B] > [A] > [C]") -> dict[str, Any]:
    return {
        "conversations": [
            {"from": "system", "value": "You are RankLLM, an assistant that ranks passages by relevance."},
            {"from": "human", "value": human_turn() if human is None else human},
            {"from": "gpt", "value": ranking},
        ]
    }


def read(folder: Path, *records: Any, limit: int = 0) -> tuple[RankingExample, ...]:
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return read_rank_zephyr(path, skip_limit=limit)


def texts(example: RankingExample) -> tuple[str, ...]:
    return tuple(page.text for page in example.pages if isinstance(page, TextPage))


def test_a_conversation_becomes_an_example(tmp_path: Path) -> None:
    [example] = read(tmp_path, record())
    assert (example.id, example.query) == ("data.jsonl:1", "How is a mirror cleaned?")
    assert texts(example) == PASSAGES
    assert (example.page_ids, example.ranking, example.relevant) == (("A", "B", "C"), (1, 0, 2), frozenset())


def test_numbers_are_read_like_letters(tmp_path: Path) -> None:
    names = [str(number) for number in range(1, 21)]
    human = human_turn([f"text {name}" for name in names], names=names)
    [example] = read(tmp_path, record(human, " > ".join(f"[{name}]" for name in reversed(names))))
    assert texts(example) == tuple(f"text {name}" for name in names)
    assert (example.page_ids, example.ranking) == (tuple(names), tuple(reversed(range(20))))


def test_a_json_list_holds_the_same_examples(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record(), record(ranking="[C] > [A] > [B]")], indent=1))
    assert [example.ranking for example in read_rank_zephyr(path, skip_limit=0)] == [(1, 0, 2), (2, 0, 1)]


def test_the_wording_without_a_closing_query_is_read(tmp_path: Path) -> None:
    human = (
        "You are RankGPT.\n\nI will provide you with 2 passages, each indicated by number identifier []. \nRank the passages "
        "based on their relevance to query: opening hours.\n\n[1] We open at nine.\n[2] Tea is served.\n\nRank the 2 passages "
        "above based on their relevance."
    )
    [example] = read(tmp_path, record(human, "[2] > [1]"))
    assert (example.query, texts(example)) == ("opening hours", ("We open at nine.", "Tea is served."))


def test_only_the_full_stop_of_the_template_is_taken_from_the_query(tmp_path: Path) -> None:
    for query, read_as in (("what is 1.5 m?", "what is 1.5 m?"), ("the U.S.", "the U.S."), ("tides", "tides")):
        [example] = read(tmp_path, record(human_turn(query=query)))
        assert example.query == read_as


def test_passages_may_hold_line_breaks_and_things_that_look_like_identifiers(tmp_path: Path) -> None:
    passages = (
        "See [B] and\n[C] in the list.\n\nEnd.",
        "Search Query: none.\nRank the 3 passages above",
        "[A] again\n[A]",
    )
    [example] = read(tmp_path, record(human_turn(passages)))
    assert texts(example) == passages


def test_pages_are_drawn_when_they_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record()))
    [example] = read_rank_zephyr(path, skip_limit=0, page_size=140)
    page = example.pages[0]()
    assert (page.size, page.mode) == ((140, 140), "RGB")
    assert np.asarray(page).min() == 0
    assert page.tobytes() == example.pages[0]().tobytes() != example.pages[1]().tobytes()


@pytest.mark.parametrize(
    ("unusable", "reason"),
    [
        ({"conversations": "none"}, "`conversations` must be a list"),
        ({"conversations": [{"from": "human", "value": human_turn()}]}, "lacks a human or a gpt turn"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "each with a text"),
        ({"conversations": record()["conversations"] * 2}, "must hold one human and one gpt turn"),
        (record("Rank these."), "lacks `I will provide you with N passages`"),
        (record(human_turn(["only"]), "[A]"), "it has 1 passages; 2 to 20 can be used"),
        (record(human_turn(list("abcdefghijklmnopqrstu"))), "it has 21 passages; 2 to 20 can be used"),
        (record(human_turn(count=4)), r"passage \[D\] of 4 is missing"),
        (record(human_turn(count=2), "[A] > [B]"), r"announces 2 passages, but \[C\] follows the last"),
        (record(human_turn(["a", "", "c"])), r"passage \[B\] is empty"),
        (record(human_turn(["a\n[B] not the second", "b", "c"])), r"passage \[B\] could begin at two places"),
        (record(human_turn(names=("x", "y", "z"))), r"no passage \[1\] or \[A\]"),
        (record(human_turn(query=" ")), "holds no query"),
        (record(ranking="B, A, C"), r"not a ranking such as"),
        (record(ranking="[B] > [A] > [C] because"), r"not a ranking such as"),
        (record(ranking="[B] > [A] > [B] > [C]"), r"names \[B\] more than once"),
        (record(ranking="[B] > [A]"), r"leaves out \[C\]"),
        (record(ranking="[2] > [1] > [3]"), r"names \[2\], which is no passage"),
    ],
)
def test_an_unusable_record_is_named_with_its_reason(tmp_path: Path, unusable: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=rf"data\.jsonl:2: .*{reason}"):
        read(tmp_path, record(), unusable)
    assert len(read(tmp_path, record(), unusable, record(), limit=1)) == 2


def test_a_page_without_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="page_size is 0"):
        read_rank_zephyr(tmp_path / "data.jsonl", skip_limit=0, page_size=0)
