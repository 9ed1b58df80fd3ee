"""Reads MMDocIR: page images in parquet files, joined with teacher rankings for training or annotations for evaluation.

Training. Pages: seven files `<set>_filter.parquet` (dataset MMDocIR/MMDocIR_Train_Dataset) with `file_name`, `page` and
`image` (encoded bytes, or Hugging Face's `{"bytes": …, "path": …}`). Rankings: JSON lines
(dukesunmtri/ZipRerank_GPT-5-mini_MMDocIR_Train) with `query_id`, `query`, `doc_name`, `domain`, `candidate_page_ids` (the
first stage's order), `gt_page_ids`, `openai_ranking` (indices into the candidates, best first) and `ranked_page_ids` (the
same as ids). The page of a candidate is in the row whose `file_name` is `doc_name` and whose `page` is its id. `domain` is
the name of the set. Its file is searched first, because sets share document names (and query ids).

Evaluation (MMDocIR/MMDocIR_Evaluation_Dataset). Pages: one file with `doc_name` and `image_binary`, a row a page. Annotations:
JSON lines with `doc_name`, `domain`, `page_indices` (first and last row of the document, both inclusive) and `questions`, each
with `Q` and `page_id`. Page ids count from 0 within the document: the row of a page is the document's first row plus the id.
The column `passage_id` is not used. The id of a question is `<doc_name>_<index in questions>`, as in the published first-stage
results. To use their pickle, write it as JSON lines of `{"question_id": key, "page_ids": value["top_k_local_indices"]}`.

Sources: MMDocRAG/MMDocIR, dataset/README.md, MMDocIR_annotations.jsonl, encode.py; dukesun99/ZipRerank, utils/data_utils.py,
scripts/evaluate.py, first_stage_retrieval.py. These give the names, the types and the join. The parquet files themselves
were not available, so two facts are assumed: `page` equals the candidate ids when written as text, and the rows of a document
are adjacent.
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from model.config import MAX_WINDOW_SIZE
from model.pages.image import to_rgb, upright
from model.training.data_files import (
    Record,
    SkipLog,
    UnusableRecordError,
    list_field,
    page_ids_field,
    read_records,
    text_field,
)
from model.training.errors import DataError
from model.training.examples import DocumentQuestion, RankingExample
from model.training.parquet_images import ImageColumn, read_columns

logger = logging.getLogger(__name__)

_FILE_ENDING = "_filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPage:
    """An `OpenPage` that reads one row of a parquet file when called."""

    images: ImageColumn
    row: int

    def read(self) -> bytes:
        """The encoded image, JPEG or PNG. Raises: DataError."""
        return self.images.read(self.row)

    def __call__(self) -> Image.Image:
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                image.load()  # load now: an image that needs no conversion still reads from the file
                return to_rgb(upright(image))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{self.images.path}: the image in row {self.row} cannot be decoded.") from error


def read_mmdocir_training(
    page_files: Sequence[Path], rankings_file: Path, *, skip_limit: int, max_candidates: int = 10
) -> tuple[RankingExample, ...]:
    """All usable rankings as examples, with the candidates in the order of the first stage.

    max_candidates: further candidates are dropped, also from the ranking and from `relevant`, which may then be empty.
    Raises: DataError.
    """
    if not 2 <= max_candidates <= MAX_WINDOW_SIZE:
        raise DataError(f"max_candidates is {max_candidates}; it must be 2 to {MAX_WINDOW_SIZE}.")
    page_sets = [_PageSet.read(path) for path in page_files]
    skips, examples = SkipLog(rankings_file, skip_limit), []
    for line, record in read_records(rankings_file, skips):
        with skips.at(line):
            examples.append(_example(record, page_sets, max_candidates=max_candidates))
    skips.finish(used=len(examples))
    return tuple(examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PageSet:
    """The pages of one training file, with an index of their rows."""

    name: str
    images: ImageColumn
    rows: dict[tuple[str, str], int]  # by file_name and page

    @classmethod
    def read(cls, path: Path) -> "_PageSet":
        images = ImageColumn.of(path, "image")
        columns = read_columns(path, ["file_name", "page"])
        keys = zip(map(str, columns["file_name"]), map(str, columns["page"]), strict=True)
        rows = {key: row for row, key in enumerate(keys)}
        if len(rows) < images.row_count:
            logger.warning(
                "%s: %d rows repeat a page; the last row of each page is used", path, images.row_count - len(rows)
            )
        return cls(name=path.stem.removesuffix(_FILE_ENDING).casefold(), images=images, rows=rows)


def _example(record: Record, page_sets: Sequence[_PageSet], *, max_candidates: int) -> RankingExample:
    document, domain = text_field(record, "doc_name"), text_field(record, "domain")
    candidates = page_ids_field(record, "candidate_page_ids")
    ranking = _teacher_order(record, candidates)
    kept = candidates[:max_candidates]
    if len(kept) < 2:
        raise UnusableRecordError(f"`candidate_page_ids` holds {len(kept)} pages; at least 2 are needed")
    in_order = sorted(page_sets, key=lambda pages: pages.name != domain.casefold())
    relevant = set(page_ids_field(record, "gt_page_ids"))
    return RankingExample(
        id=f"{domain}/{record.get('query_id')}",
        query=text_field(record, "query"),
        pages=tuple(_find_page(in_order, document, page_id) for page_id in kept),
        page_ids=kept,
        ranking=tuple(index for index in ranking if index < len(kept)),
        relevant=frozenset(index for index, page_id in enumerate(kept) if page_id in relevant),
    )


def _teacher_order(record: Record, candidates: Sequence[str]) -> list[int]:
    ranking = list_field(record, "openai_ranking")
    if not all(type(index) is int for index in ranking) or sorted(ranking) != list(range(len(candidates))):
        raise UnusableRecordError(
            f"`openai_ranking` must name each of the {len(candidates)} candidates once, by 0 to {len(candidates) - 1}"
        )
    ranked = tuple(candidates[index] for index in ranking)
    if "ranked_page_ids" in record and page_ids_field(record, "ranked_page_ids") != ranked:
        raise UnusableRecordError("`ranked_page_ids` and `openai_ranking` disagree")
    return ranking


def _find_page(page_sets: Sequence[_PageSet], document: str, page_id: str) -> StoredPage:
    for pages in page_sets:
        row = pages.rows.get((document, page_id))
        if row is not None:
            return StoredPage(images=pages.images, row=row)
    raise UnusableRecordError(f"no page file holds page {page_id} of {document}")


def read_mmdocir_evaluation(
    pages_file: Path,
    annotations_file: Path,
    first_stage_file: Path | None = None,
    *,
    skip_limit: int,
    max_candidates: int | None = None,
) -> tuple[DocumentQuestion, ...]:
    """All usable questions, in the order of the file.

    first_stage_file: JSON lines with `question_id` and the candidates as `page_ids`, best first. None: the candidates are all
    pages of the document, in its order.
    max_candidates: keep at most this many candidates, from the front. None: keep all.
    Raises: DataError.
    """
    pages = _DocumentPages(images=ImageColumn.of(pages_file, "image_binary"), names=_document_names(pages_file))
    orders = None if first_stage_file is None else _FirstStage(first_stage_file, skip_limit)
    skips, questions = SkipLog(annotations_file, skip_limit), []
    for line, record in read_records(annotations_file, skips):
        with skips.at(line):
            document = _document(record, pages)
            for index, entry in enumerate(list_field(record, "questions")):
                with skips.at(line):
                    questions.append(_question(document, index, entry, pages, orders, max_candidates))
    skips.finish(used=len(questions))
    if orders is not None:
        orders.finish()
    return tuple(questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DocumentPages:
    images: ImageColumn
    names: list[Any]  # the document of each row


def _document_names(pages_file: Path) -> list[Any]:
    return read_columns(pages_file, ["doc_name"])["doc_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    name: str
    domain: str
    first_row: int
    page_count: int

    @property
    def page_ids(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.page_count)))


def _document(record: Record, pages: _DocumentPages) -> _Document:
    name, rows = text_field(record, "doc_name"), list_field(record, "page_indices")
    if len(rows) != 2 or not all(type(row) is int for row in rows) or not 0 <= rows[0] <= rows[1] < len(pages.names):
        raise UnusableRecordError(f"`page_indices` must be the first and last of the rows 0 to {len(pages.names) - 1}")
    first, last = rows
    if any(owner != name for owner in pages.names[first : last + 1]):
        raise UnusableRecordError(f"some rows from {first} to {last} belong to another document than {name}")
    return _Document(name=name, domain=text_field(record, "domain"), first_row=first, page_count=last - first + 1)


def _question(
    document: _Document,
    index: int,
    entry: Any,
    pages: _DocumentPages,
    orders: "_FirstStage | None",
    max_candidates: int | None,
) -> DocumentQuestion:
    id = f"{document.name}_{index}"
    if not isinstance(entry, dict):
        raise UnusableRecordError(f"question {id} is not a JSON object")
    relevant = page_ids_field(entry, "page_id")
    if not relevant:
        raise UnusableRecordError(f"question {id} names no page that answers it")
    _check_pages(relevant, document, id)
    candidates = document.page_ids if orders is None else orders.take(id)
    _check_pages(candidates, document, id)
    candidates = candidates[:max_candidates]
    return DocumentQuestion(
        id=id,
        query=text_field(entry, "Q"),
        domain=document.domain,
        pages=tuple(StoredPage(images=pages.images, row=document.first_row + int(page_id)) for page_id in candidates),
        page_ids=candidates,
        relevant=frozenset(relevant),
    )


def _check_pages(page_ids: Sequence[str], document: _Document, question_id: str) -> None:
    known = set(document.page_ids)
    for page_id in page_ids:
        if page_id not in known:
            raise UnusableRecordError(
                f"question {question_id} names page {page_id}; the document has the pages 0 to {document.page_count - 1}"
            )


class _FirstStage:
    """The candidates of each question, by the first retrieval stage. Entries without a question count as unusable records."""

    def __init__(self, path: Path, skip_limit: int) -> None:
        self._skips = SkipLog(path, skip_limit)
        self._orders: dict[str, tuple[int, tuple[str, ...]]] = {}  # line and page ids
        self._used = 0
        for line, record in read_records(path, self._skips):
            with self._skips.at(line):
                self._add(line, record)

    def _add(self, line: int, record: Record) -> None:
        question_id, page_ids = text_field(record, "question_id"), page_ids_field(record, "page_ids")
        if not page_ids or question_id in self._orders:
            raise UnusableRecordError(f"question {question_id} must have one order of at least one page")
        self._orders[question_id] = line, page_ids

    def take(self, question_id: str) -> tuple[str, ...]:
        if question_id not in self._orders:
            raise UnusableRecordError(f"the first stage has no order for question {question_id}")
        self._used += 1
        return self._orders.pop(question_id)[1]

    def finish(self) -> None:
        for question_id, (line, _) in self._orders.items():
            self._skips.skip(line, f"no usable question is called {question_id}")
        self._skips.finish(used=self._used)
