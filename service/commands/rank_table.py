"""Answers of `/rerank` as rows, and rows as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.commands.rank_job import printable
from service.dialects.answers import RerankResult

_LEAST_NAME_COLUMNS = 12
_RESULTS = TypeAdapter(list[RerankResult])


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRow:
    """One page of the answer."""

    rank: int  # from 1
    score: float
    document_index: int  # in the job's files
    page: int | None  # 1-based; None for a single image
    is_degraded: bool  # parts of the page could not be drawn


def rows_of(answer: Mapping[str, object], document_count: int) -> list[RankedRow]:
    """Best first. Raises: ValueError where the body is not an answer about that many documents."""
    try:
        results = _RESULTS.validate_python(answer.get("results"))
    except ValidationError as error:
        raise ValueError("the list of results is missing or has another form") from error
    if any(not 0 <= result["index"] < document_count for result in results):
        raise ValueError("a result is about a document that was not sent")
    return [
        RankedRow(
            rank=rank,
            score=result["relevance_score"],
            document_index=result["index"],
            page=result["page"],
            is_degraded=result.get("degraded", False),
        )
        for rank, result in enumerate(results, start=1)
    ]


def as_table(rows: Sequence[RankedRow], files: Sequence[Path], columns: int | None) -> str:
    """Rank, score, document and page, aligned.

    columns: of the terminal; long paths lose their beginning to fit. None: no limit.
    """
    cells = [
        (str(row.rank), f"{row.score:.4f}", printable(files[row.document_index]), "-" if row.page is None else str(row.page))
        for row in rows
    ]  # fmt: skip
    head = ("rank", "score", "document", "page")
    rank, score, name, page = (max(len(line[column]) for line in [head, *cells]) for column in range(4))
    if columns is not None:
        name = min(name, max(_LEAST_NAME_COLUMNS, columns - rank - score - page - 6))
    return "\n".join(
        f"{line[0]:>{rank}}  {line[1]:>{score}}  {_shortened(line[2], name):<{name}}  {line[3]:>{page}}"
        for line in [head, *cells]
    )


def _shortened(name: str, columns: int) -> str:
    """The end of a path tells files apart better than its beginning."""
    return name if len(name) <= columns else f"…{name[1 - columns :]}"
