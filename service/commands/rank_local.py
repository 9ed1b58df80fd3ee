"""Ranks files in this process: opens them in raster workers, loads the model, renders the pages and scores their windows.

Documents are opened before the model is loaded, so that a damaged file or a wrong page number fails within a second.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace

from model import (
    PageScores,
    QueryError,
    Ranking,
    RankingModel,
    RerankerError,
    ScoreError,
    WindowPlan,
    choose_windows,
    combine_windows,
    no_observation,
)
from service.app import load_reranker
from service.commands.progress import Progress
from service.commands.rank_documents import TENANT, gather_uploads, raster_limits_for_files, read_uploads
from service.commands.rank_job import ExitCode, RankError, RankJob, to_rank_error
from service.dialects.answers import RerankResponse, write_answer
from service.documents.loaded import Loaded, LoadedPage
from service.documents.loader import PageLoader
from service.documents.page_cache import PageCache
from service.documents.sources import MemorySource, Source
from service.errors import ServiceError
from service.inference.options import RankSettings, check_query_text, choose_rank_settings
from service.inference.rerank import count_tokens, rank_pages
from service.raster.pool import Rasterizer
from service.records import RankOptions, RerankAnswer, RerankQuery
from service.settings import Settings

MAX_PAGES = 1_000
"""All pages are in memory at once: about 2 GB for so many of A4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenedDocuments:
    """The documents, each with its outline, and the number of all selected pages."""

    sources: list[Source]
    page_count: int


def rank_in_this_process(job: RankJob, settings: Settings, progress: Progress) -> RerankResponse:
    """The answer as a server would give it. Raises: RankError."""
    started = time.perf_counter()
    try:
        check_query_text(job.query, settings.max_query_characters)
        query = RerankQuery(
            text=job.query,
            documents=read_uploads(job.files, job.selections),
            options=RankOptions(keep_ratio=job.keep_ratio),
            max_results=job.max_results,
        )
        options = choose_rank_settings(query.options, settings)
        model, loaded = _load(query, settings, progress)
    except ServiceError as error:
        raise to_rank_error(error, job.files) from error
    try:
        ranking = _rank(model, query.text, loaded.pages, options, progress)
    except QueryError as error:
        raise RankError(ExitCode.USAGE, f"--query: {error}") from error
    except RerankerError as error:
        raise RankError(ExitCode.NOT_RANKED, str(error)) from error
    answer = RerankAnswer(
        request_id=f"rerank-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model.name,
        pages=rank_pages(loaded.pages, ranking),
        score_kind="rank" if ranking.logits is None else "softmax",
        windows=len(ranking.windows),
        tokens=count_tokens(ranking),
        stage_seconds=loaded.stage_seconds,
        total_seconds=time.perf_counter() - started,
    )
    return write_answer(query, answer)


def _load(query: RerankQuery, settings: Settings, progress: Progress) -> tuple[RankingModel, Loaded]:
    """The model, and the selected pages. Raises: RankError, ServiceError."""
    threads = ThreadPoolExecutor(max_workers=settings.rasterizer_processes + 2, thread_name_prefix="prepare")
    pool = Rasterizer(raster_limits_for_files(settings), observe=progress.count_page)
    try:
        progress.begin("opening documents")
        pool.start()
        if not pool.is_alive:
            raise RankError(
                ExitCode.NOT_RANKED, "the document workers do not start. Run `ziprerank doctor` for the cause."
            )
        loader = PageLoader(pool, PageCache(0), threads, max_pages=MAX_PAGES)
        opened = asyncio.run(_open_documents(query, loader, threads))
        progress.begin(f"loading {settings.model}")
        model = _load_model(settings)
        progress.begin(f"rendering {opened.page_count} pages", opened.page_count)
        return model, asyncio.run(loader.load(opened.sources, model, tenant=TENANT))
    finally:
        pool.close()
        threads.shutdown(cancel_futures=True)


async def _open_documents(query: RerankQuery, loader: PageLoader, threads: Executor) -> _OpenedDocuments:
    sources: list[Source] = []
    page_count = 0
    for index, source in enumerate(await gather_uploads(query.documents, threads=threads)):
        try:
            outline = await loader.outline(source)
            pages = (
                outline.page_count if source.pages is None else sum(map(len, source.pages.spans(outline.page_count)))
            )
        except ServiceError as error:
            raise error.at(document_index=index) from error
        page_count += pages
        content = replace(source.read(), outline=outline)
        sources.append(MemorySource(label=source.label, pages=source.pages, content=content))
    if page_count > MAX_PAGES:
        raise RankError(
            ExitCode.USAGE,
            f"{page_count} pages are selected and the limit is {MAX_PAGES}. Select fewer by --pages, or rank fewer files.",
        )
    return _OpenedDocuments(sources=sources, page_count=page_count)


def _load_model(settings: Settings) -> RankingModel:
    """Without compiled layers: compiling takes longer than one query gains by it. Raises: RankError."""
    try:
        return load_reranker(settings.model_copy(update={"compile": False}))
    except RerankerError as error:
        raise RankError(ExitCode.MODEL, f"the model cannot be loaded: {error}") from error


def _rank(
    model: RankingModel, query: str, pages: Sequence[LoadedPage], options: RankSettings, progress: Progress
) -> Ranking:
    """Window after window. Raises: RerankerError."""
    progress.begin(f"ranking {len(pages)} pages", _count_windows(_plan(len(pages), options)))
    plan = _plan(len(pages), options)
    answers: list[PageScores] = []
    while turn := plan.turn:
        orders = []
        for window in turn:
            request = model.prepare(query, [pages[index].prepared for index in window], options.keep_ratio)
            [scores] = model.start([request], observe=no_observation).wait()
            if not scores.is_finite:
                raise ScoreError(
                    "The model gave scores that are not finite. Check the checkpoint, or choose dtype float32."
                )
            answers.append(scores)
            orders.append(scores.order)
            progress.advance()
        plan.submit(orders)
    return combine_windows(plan.order, answers)


def _plan(page_count: int, options: RankSettings) -> WindowPlan:
    return choose_windows(options.window_strategy, page_count, window_size=options.window_size, stride=options.stride)


def _count_windows(plan: WindowPlan) -> int:
    """Uses the plan up. The number of windows does not depend on their orders."""
    count = 0
    while turn := plan.turn:
        count += len(turn)
        plan.submit([range(len(window)) for window in turn])
    return count
