"""Labels questions with the rankings of a teacher model, several at once, and resumes interrupted runs.

Every answer is written to the output as it arrives. `teacher` talks to the endpoint, `label_files` reads and writes the files.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from model.training.errors import RefusedError, TeacherError, TrainingError
from model.training.label_files import (
    LabelQuestion,
    append_line,
    failed,
    failures_path,
    labelled,
    open_output,
    read_questions,
)
from model.training.page_images import find_page_images
from model.training.rate_limit import RateLimit
from model.training.spending import Prices, Spending, Usage
from model.training.teacher import Teacher, TeacherConfig

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 20
"""Stop after this many: the endpoint or the model is at fault, and each further question may cost money."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelJob:
    """The settings of a labelling run: files, endpoint and limits."""

    questions: Path
    pages: tuple[Path, ...]  # one folder of images, or parquet files
    output: Path
    teacher: TeacherConfig
    concurrency: int = 8  # questions asked at once
    requests_per_minute: float = 60
    tokens_per_minute: float | None = None
    prices: Prices | None = None
    limit: int | None = None  # most questions to ask in this run
    skip_limit: int = 0  # unusable lines of `questions` that may be skipped

    def __post_init__(self) -> None:
        """Raises: TrainingError."""
        if self.questions.resolve() in {self.output.resolve(), failures_path(self.output).resolve()}:
            raise TrainingError(f"{self.questions} is both the input and an output. Choose another output.")
        self._check_above_zero("concurrency", "requests_per_minute", "tokens_per_minute", "limit")
        if self.prices is not None and not (self.prices.prompt >= 0 and self.prices.completion >= 0):
            raise TrainingError(
                f"The prices are {self.prices.prompt} and {self.prices.completion}; they must be at least 0."
            )

    def _check_above_zero(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise TrainingError(f"{name} is {value}; it must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """The counts and the cost of a finished run."""

    labelled: int
    failed: int
    earlier: int  # labelled by earlier runs
    left: int  # not asked, because of `limit`
    spending: Spending

    def __str__(self) -> str:
        counts = f"{self.labelled} labelled, {self.failed} failed, {self.earlier} labelled before, {self.left} left"
        return f"{counts}; {self.spending}"


def run_label(job: LabelJob) -> LabelSummary:
    """Ask all questions that are not in the output yet. Failed ones go to `<output>.failed.jsonl`; the next run retries them.

    Raises: DataError, RefusedError; TeacherError after many failures in a row. The output keeps all answers up to the error.
    """
    questions = read_questions(job.questions, find_page_images(job.pages), skip_limit=job.skip_limit)
    labelled_before = open_output(job.output)
    waiting = [question for question in questions if question.key not in labelled_before]
    run = _run(job, waiting[: job.limit])
    return LabelSummary(
        labelled=run.labelled,
        failed=run.failed,
        earlier=len(questions) - len(waiting),
        left=len(waiting) - run.labelled - run.failed,
        spending=run.spending,
    )


def _run(job: LabelJob, questions: Sequence[LabelQuestion]) -> "_LabelRun":
    failures_path(job.output).unlink(missing_ok=True)
    with logging_redirect_tqdm(), tqdm(total=len(questions), unit="question") as progress:
        run = _LabelRun(job, questions, progress=progress)
        try:
            asyncio.run(run.ask_all())
        except (KeyboardInterrupt, TrainingError):
            logger.warning("stopped: %s", run.spending)
            raise
    return run


class _LabelRun:
    """The state of one run: its counts, and the questions that are still to be asked."""

    def __init__(self, job: LabelJob, questions: Sequence[LabelQuestion], *, progress: "tqdm[NoReturn]") -> None:
        self.labelled = 0
        self.failed = 0
        self.spending = Spending(job.prices)
        self._job = job
        self._waiting = iter(questions)
        self._progress = progress
        self._failures_in_a_row = 0
        self._stopped_by: TrainingError | None = None

    async def ask_all(self) -> None:
        """Ask all questions, `concurrency` at once.

        Raises: TrainingError that stopped the run, but only after the answers in flight have arrived and been written.
        """
        rate = RateLimit(self._job.requests_per_minute, tokens_per_minute=self._job.tokens_per_minute)
        teacher = Teacher(self._job.teacher, rate=rate, record_usage=self._record_usage)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._job.concurrency):
                    group.create_task(self._ask_in_turn(teacher))
        finally:
            await teacher.close()
        if self._stopped_by is not None:
            raise self._stopped_by

    async def _ask_in_turn(self, teacher: Teacher) -> None:
        while self._stopped_by is None and (question := next(self._waiting, None)) is not None:
            try:
                await self._label(teacher, question)
            except TrainingError as error:
                self._stopped_by = error
            else:
                self._progress.update()

    async def _label(self, teacher: Teacher, question: LabelQuestion) -> None:
        """Ask one question and write its answer or failure. Raises: TrainingError if no further question should be asked."""
        try:
            ranking = await teacher.ask(question.query, question.pages)
        except RefusedError:
            raise
        except TrainingError as error:
            self._fail(question, str(error))
        else:
            append_line(self._job.output, labelled(question, ranking))
            self.labelled += 1
            self._failures_in_a_row = 0

    def _fail(self, question: LabelQuestion, reason: str) -> None:
        append_line(failures_path(self._job.output), failed(question, reason))
        logger.warning("question %s failed: %s", "/".join(question.key), reason)
        self.failed += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row == _FAILURES_IN_A_ROW:
            raise TeacherError(f"{_FAILURES_IN_A_ROW} questions in a row failed, the last because: {reason}")

    def _record_usage(self, usage: Usage | None) -> None:
        self.spending.add(usage)
        self._progress.set_postfix_str(str(self.spending))
