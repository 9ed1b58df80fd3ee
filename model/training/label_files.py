"""Reads and writes the files of teacher labelling: questions, labelled questions, and failures.

All three are JSON lines in the format of the published teacher rankings, so that `mmdocir` can read the labelled questions.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import MAX_WINDOW_SIZE
from model.errors import QueryError
from model.prompt import check_query
from model.training.data_files import Record, SkipLog, UnusableRecordError, page_ids_field, read_records, text_field
from model.training.errors import DataError
from model.training.examples import OpenPage
from model.training.page_images import PageImages

logger = logging.getLogger(__name__)

_FEWEST_CANDIDATES = 2
_FAILED_SUFFIX = ".failed.jsonl"

QuestionKey = tuple[str, str]
"""Domain and query id: the published query ids repeat between domains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQuestion:
    """One question to be labelled, with its candidate pages."""

    key: QuestionKey
    query: str
    pages: tuple[OpenPage, ...]  # 2 to 20 candidates
    record: Record  # the JSON object of its line


def read_questions(path: Path, images: PageImages, *, skip_limit: int) -> tuple[LabelQuestion, ...]:
    """All usable questions, in the order of the file.

    Checks everything but the pixels of the pages, so that faults are found before the first question costs money.
    Raises: DataError.
    """
    skips = SkipLog(path, skip_limit)
    questions: dict[QuestionKey, LabelQuestion] = {}
    for line, record in read_records(path, skips):
        with skips.at(line):
            question = _question(record, images)
            if question.key in questions:
                raise UnusableRecordError(f"question {'/'.join(question.key)} is in the file twice")
            questions[question.key] = question
    skips.finish(used=len(questions))
    return tuple(questions.values())


def _question(record: Record, images: PageImages) -> LabelQuestion:
    page_ids = page_ids_field(record, "candidate_page_ids")
    page_ids_field(record, "gt_page_ids")
    if not _FEWEST_CANDIDATES <= len(page_ids) <= MAX_WINDOW_SIZE:
        raise UnusableRecordError(
            f"`candidate_page_ids` holds {len(page_ids)} pages; it must be {_FEWEST_CANDIDATES} to {MAX_WINDOW_SIZE}"
        )
    return LabelQuestion(
        key=_key(record), query=_query(record), pages=_find_pages(record, page_ids, images), record=record
    )


def _key(record: Record) -> QuestionKey:
    """The key of a record. Raises: UnusableRecordError."""
    query_id = record.get("query_id")
    if not isinstance(query_id, int | str) or isinstance(query_id, bool):
        raise UnusableRecordError("`query_id` must be a whole number or a text")
    return text_field(record, "domain"), str(query_id)


def _query(record: Record) -> str:
    query = text_field(record, "query")
    try:
        check_query(query)
    except QueryError as error:
        raise UnusableRecordError(str(error)) from error
    return query


def _find_pages(record: Record, page_ids: Sequence[str], images: PageImages) -> tuple[OpenPage, ...]:
    doc_name, domain = text_field(record, "doc_name"), text_field(record, "domain")
    try:
        return tuple(images.find(doc_name, page_id, domain=domain) for page_id in page_ids)
    except DataError as error:
        raise UnusableRecordError(str(error)) from error


def append_line(path: Path, record: Record) -> None:
    """Append a record as one line, and hand it to the operating system before returning. Raises: DataError."""
    line = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    try:
        with path.open("ab") as file:
            file.write(line)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({type(error).__name__}). Is the disk full?") from error


def labelled(question: LabelQuestion, ranking: Sequence[int]) -> Record:
    """The record of the question with the teacher's ranking added."""
    candidates: list[Any] = question.record["candidate_page_ids"]
    return {
        **question.record,
        "openai_ranking": list(ranking),
        "ranked_page_ids": [candidates[index] for index in ranking],
    }


def failed(question: LabelQuestion, reason: str) -> Record:
    """The record of the question with the reason of its failure added."""
    return {**question.record, "reason": reason}


def failures_path(output: Path) -> Path:
    """The file of failures, such as `labels.failed.jsonl` beside `labels.jsonl`."""
    return output.with_suffix(_FAILED_SUFFIX)


def open_output(path: Path) -> frozenset[QuestionKey]:
    """The keys of the questions that the output already holds. Creates the file if it is missing.

    Removes an incomplete last line, which a killed run can leave.
    Raises: DataError if the file cannot be written, or holds a line in another format.
    """
    try:
        path.touch()
        _remove_incomplete_line(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({type(error).__name__}). Does its folder exist?") from error
    skips, keys = SkipLog(path, 0), set()
    for line, record in read_records(path, skips):
        with skips.at(line):
            keys.add(_key(record))
    return frozenset(keys)


def _remove_incomplete_line(path: Path) -> None:
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            logger.warning("%s: removed the incomplete last line; its question is asked again", path)
            file.truncate(whole)
