"""Reads the RankZephyr listwise data: conversations with a query, up to 20 passages, and a teacher's ranking.

Each passage becomes a page. There are two data sets, which differ in their identifiers:

    rryisthebest/rank_zephyr_training_data_alpha   letters, `[A]`; the data of the published stage 1
    castorini/rank_zephyr_training_data            numbers, `[1]`

A record is `{"conversations": [{"from": "system" | "human" | "gpt", "value": …}, …]}`. The human turn opens
with `I will provide you with N passages, each indicated by …`, asks to rank them `… to the search query: QUERY.` (or `to
query: QUERY.`), lists the passages, each identifier at the start of a line, and ends with `Search Query: QUERY.` and `Rank
the N passages above …`; the text of the system may precede it. The gpt turn is `[B] > [A] > …`.
Sources: castorini/rank_llm, training/README.md and data_utils.py; dukesun99/ZipRerank, utils/data_utils.py. The data files
themselves were not available when this was written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from PIL import Image

from model.config import MAX_WINDOW_SIZE
from model.pages.text_renderer import render_text
from model.training.data_files import Record, SkipLog, UnusableRecordError, list_field, read_records
from model.training.errors import DataError
from model.training.examples import RankingExample

_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_OPENING = re.compile(r"I will provide you with (\d+) passages\b", re.I)
_OPENING_QUERY = re.compile(r"based on their relevan\w+ to (?:the )?(?:search )?query: *(.+)", re.I)
_CLOSING_QUERY = re.compile(r"^Search Query: *(.+)", re.I | re.M)
_CLOSING_TASK = re.compile(r"^Rank the \d+ passages above\b", re.I | re.M)
_NUMBERS = tuple(str(number) for number in range(1, MAX_WINDOW_SIZE + 2))
_LETTERS = tuple(ascii_uppercase[: MAX_WINDOW_SIZE + 1])
"""One more than the longest prompt, to detect a passage too many."""

_RANKING = re.compile(r"\s*\[\w+\](?:\s*>\s*\[\w+\])*\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPage:
    """An `OpenPage` that renders the text on a square page of `size` pixels when called."""

    text: str
    size: int

    def __call__(self) -> Image.Image:
        return render_text(self.text, width=self.size, height=self.size)


def read_rank_zephyr(path: Path, *, skip_limit: int, page_size: int = 280) -> tuple[RankingExample, ...]:
    """All usable records as examples. Keeps the texts in memory (about 0.6 GB for the whole set), but no page images.

    path: a JSON list or JSON lines, also as .gz. skip_limit: the number of records that may be unusable. page_size: in pixels.
    `relevant` is empty in all examples, because the data has no ground truth.
    Raises: DataError.
    """
    if page_size < 1:
        raise DataError(f"page_size is {page_size}; it must be at least 1 pixel.")
    skips, examples = SkipLog(path, skip_limit), []
    for line, record in read_records(path, skips):
        with skips.at(line):
            examples.append(_example(record, id=f"{path.name}:{line}", page_size=page_size))
    skips.finish(used=len(examples))
    return tuple(examples)


def _example(record: Record, *, id: str, page_size: int) -> RankingExample:
    turns = _turns(record)
    question = _parse_question(turns["human"])
    return RankingExample(
        id=id,
        query=question.query,
        pages=tuple(TextPage(text=passage, size=page_size) for passage in question.passages),
        page_ids=question.identifiers,
        ranking=_parse_ranking(turns["gpt"], question.identifiers),
        relevant=frozenset(),
    )


def _turns(record: Record) -> dict[str, str]:
    """The texts of the human and the gpt turn, by speaker. Turns of other speakers are ignored."""
    turns: dict[str, str] = {}
    for turn in list_field(record, "conversations"):
        speaker = _SPEAKERS.get(turn.get("from", "")) if isinstance(turn, dict) else None
        if speaker is None:
            continue
        if speaker in turns or not isinstance(turn.get("value"), str):
            raise UnusableRecordError(
                "`conversations` must hold one human and one gpt turn, each with a text as `value`"
            )
        turns[speaker] = turn["value"]
    if len(turns) < 2:
        raise UnusableRecordError("`conversations` lacks a human or a gpt turn")
    return turns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    query: str
    identifiers: tuple[str, ...]
    passages: tuple[str, ...]


def _parse_question(text: str) -> _Question:
    text = text.replace("\r\n", "\n")
    opening = _OPENING.search(text)
    if opening is None:
        raise UnusableRecordError("the human turn lacks `I will provide you with N passages`")
    count = int(opening[1])
    if not 2 <= count <= MAX_WINDOW_SIZE:
        raise UnusableRecordError(f"it has {count} passages; 2 to {MAX_WINDOW_SIZE} can be used")
    body = text[opening.end() : _end_of_passages(text, opening.end())]
    identifiers = _identifiers(body)
    return _Question(
        query=_query(text),
        identifiers=identifiers[:count],
        passages=_passages(body, identifiers[:count], following=identifiers[count]),
    )


def _end_of_passages(text: str, start: int) -> int:
    """The position where the closing instructions begin: the last match, because a passage may hold the same words."""
    for closing in (_CLOSING_QUERY, _CLOSING_TASK):
        if found := _last(closing, text, start):
            return found.start()
    return len(text)


def _query(text: str) -> str:
    """The query from the closing line, else from the opening, without the full stop that the template adds."""
    found = _last(_CLOSING_QUERY, text, 0) or _OPENING_QUERY.search(text)
    query = found[1].strip().removesuffix(".").strip() if found else ""
    if not query:
        raise UnusableRecordError("the human turn holds no query")
    return query


def _last(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    last = None
    for last in pattern.finditer(text, start):  # noqa: B007
        pass
    return last


def _identifiers(body: str) -> tuple[str, ...]:
    """All identifiers of the kind, numbers or letters, that the first passage has."""
    first = re.search(r"^\[(1|A)\]", body, re.M)
    if first is None:
        raise UnusableRecordError("no passage [1] or [A] stands at the start of a line")
    return _NUMBERS if first[1] == "1" else _LETTERS


def _passages(body: str, identifiers: Sequence[str], *, following: str) -> tuple[str, ...]:
    """The texts between the identifiers. These come in order, each at the start of a line."""
    starts = _starts(body, identifiers)
    if any(place > starts[-1] for place in _places(body, following)):
        raise UnusableRecordError(f"it announces {len(identifiers)} passages, but [{following}] follows the last")
    ends = [*starts[1:], len(body)]
    passages = tuple(body[start:end].partition("]")[2].strip() for start, end in zip(starts, ends, strict=True))
    if "" in passages:
        raise UnusableRecordError(f"passage [{identifiers[passages.index('')]}] is empty")
    return passages


def _starts(body: str, identifiers: Sequence[str]) -> list[int]:
    """The position where each passage begins.

    A line inside a passage may look like the identifier of the next passage. Then the earliest and the latest possible
    positions differ, and the record is refused as ambiguous.
    """
    places = [_places(body, identifier) for identifier in identifiers]
    earliest, latest = _earliest(places, identifiers), _latest(places, end=len(body))
    for identifier, one, other in zip(identifiers, earliest, latest, strict=True):
        if one != other:
            raise UnusableRecordError(f"passage [{identifier}] could begin at two places")
    return earliest


def _places(body: str, identifier: str) -> list[int]:
    return [match.start() for match in re.finditer(rf"^\[{identifier}\]", body, re.M)]


def _earliest(places: Sequence[Sequence[int]], identifiers: Sequence[str]) -> list[int]:
    chosen: list[int] = []
    for identifier, starts in zip(identifiers, places, strict=True):
        after = chosen[-1] if chosen else -1
        start = next((start for start in starts if start > after), None)
        if start is None:
            raise UnusableRecordError(f"passage [{identifier}] of {len(identifiers)} is missing")
        chosen.append(start)
    return chosen


def _latest(places: Sequence[Sequence[int]], *, end: int) -> list[int]:
    """The latest possible positions. Call it only after `_earliest` has found some."""
    chosen = [end]
    for starts in reversed(places):
        chosen.append(max(start for start in starts if start < chosen[-1]))
    return chosen[:0:-1]


def _parse_ranking(text: str, identifiers: Sequence[str]) -> tuple[int, ...]:
    """The indices of the passages, best first. Each must be named exactly once, without other text."""
    if not _RANKING.fullmatch(text):
        raise UnusableRecordError("the gpt turn is not a ranking such as `[B] > [A]`")
    named = re.findall(r"\[(\w+)\]", text)
    for name in named:
        if name not in identifiers:
            raise UnusableRecordError(f"the ranking names [{name[:8]}], which is no passage")
        if named.count(name) > 1:
            raise UnusableRecordError(f"the ranking names [{name}] more than once")
    if missing := [identifier for identifier in identifiers if identifier not in named]:
        raise UnusableRecordError(f"the ranking leaves out [{'], ['.join(missing)}]")
    return tuple(identifiers.index(name) for name in named)
