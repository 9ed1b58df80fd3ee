"""The way of one request from its submission to its answer: pages, windows, scores, results.

Only awaits and moves small objects on the event loop; decoding, resizing and scoring happen in processes and threads that it
is handed. Knows no HTTP.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from model import (
    MAX_WINDOW_SIZE,
    PageCountError,
    PageImage,
    PageScores,
    PreparedPage,
    PreparedRequest,
    QueryError,
    Ranking,
    WindowStrategy,
    choose_windows,
    combine_windows,
)
from service.dialects.submission import Submission
from service.documents.loader import LoadedPage, PageLoader
from service.documents.selection import PageSelection
from service.documents.sources import PageSource, decode_documents
from service.errors import InvalidRequestError
from service.inference.micro_batcher import MicroBatcher
from service.inference.request_record import RequestRecord
from service.metrics import Metrics
from service.registered.registry import DocumentRegistry
from service.registered.store import DocumentKey, DocumentReplaced
from service.settings import Settings
from service.tracing import RankedDocuments, Trace

_WINDOWS_AT_ONCE = 2  # one on the device, one behind it


class Preparer(Protocol):
    """What the flow needs of a `model.Reranker`."""

    @property
    def name(self) -> str: ...
    def prepare_page(self, page: PageImage, *, scope: bytes) -> PreparedPage: ...
    def prepare(self, query: str, pages: Sequence[PreparedPage], keep_ratio: float | None) -> PreparedRequest: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOptions:
    """The options of one request, defaults filled in."""

    keep_ratio: float
    window_size: int
    stride: int
    window_strategy: WindowStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What stays the same through all windows of one request."""

    query: str
    options: RankOptions
    preparer: Preparer
    record: RequestRecord
    scope: bytes  # nothing cached or stored is shared with callers of another scope


class RerankFlow:
    def __init__(
        self,
        settings: Settings,
        *,
        registry: DocumentRegistry,
        loader: PageLoader,
        batcher: MicroBatcher,
        metrics: Metrics,
        threads: Executor,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._loader = loader
        self._batcher = batcher
        self._metrics = metrics
        self._threads = threads

    async def answer(
        self, submission: Submission, preparer: Preparer, record: RequestRecord, *, request_id: str, scope: bytes
    ) -> dict[str, Any]:
        """The body of the answer.

        Raises: any ServiceError; asyncio.CancelledError when the client has gone, which drops what still waits.
        """
        options = rank_options(submission, self._settings)
        check_query(submission.options.query, self._settings.max_query_characters)
        self._batcher.refuse_when_full()
        job = Job(query=submission.options.query, options=options, preparer=preparer, record=record, scope=scope)
        pages = await self._load_pages(job, submission)
        record.sizes.update(documents=len(submission.documents), pages=len(pages))
        ranking = await self._rank(job, [page.prepared for page in pages])
        record.sizes.update(token_counts(ranking))
        self._metrics.request_documents.observe(len(submission.documents))
        self._metrics.request_pages.observe(len(pages))
        with record.observe("respond"):
            body = build_response(submission, pages, ranking, request_id=request_id, model=preparer.name)
        if submission.options.ziprerank.include_timings:
            body["ziprerank"] = measurements(record, ranking)
        if record.trace is not None:
            _describe(record.trace, job, submission, pages, body)
        return body

    async def _load_pages(self, job: Job, submission: Submission) -> list[LoadedPage]:
        """Every page on the model's grid. Each is prepared as soon as it is rendered, in the thread that got it."""

        def prepare(pixels: np.ndarray) -> PreparedPage:
            return job.preparer.prepare_page(PageImage(pixels=pixels), scope=job.scope)

        while True:
            with suppress(DocumentReplaced):  # somebody put a registered document between its manifest and its bytes
                return await self._loader.load(
                    lambda: self._find_sources(job, submission),
                    prepare,
                    scope=job.scope,
                    observe=lambda stage, seconds: job.record.add({stage: seconds}),
                    trace=job.record.trace,
                )

    def _find_sources(self, job: Job, submission: Submission) -> list[PageSource]:
        def find(id: str, pages: PageSelection | None) -> PageSource:
            return self._registry.source_of(DocumentKey(scope=job.scope, id=id), pages)

        with job.record.observe("parse"):
            sources = decode_documents(submission.documents, max_file_bytes=self._settings.max_file_bytes, find=find)
        job.record.stage = "render" if any(source.kind == "pdf" for source in sources) else "decode"
        return sources

    async def _rank(self, job: Job, pages: Sequence[PreparedPage]) -> Ranking:
        """Turn by turn; each window is a queue entry of its own, so that windows of several requests share batches."""
        options = job.options
        windows = choose_windows(
            options.window_strategy, len(pages), window_size=options.window_size, stride=options.stride
        )
        answers: list[PageScores] = []
        try:
            turn = next(windows)
            while True:
                scored = await self._score_turn(
                    job, [[pages[index] for index in window] for window in turn], admitted=bool(answers)
                )
                answers += scored
                turn = windows.send([scores.order for scores in scored])
        except StopIteration as stop:
            return combine_windows(stop.value, answers)

    async def _score_turn(
        self, job: Job, windows: Sequence[Sequence[PreparedPage]], *, admitted: bool
    ) -> list[PageScores]:
        """Side by side, but few at a time, so that nobody's small request waits behind all windows of a large one."""
        places = asyncio.Semaphore(_WINDOWS_AT_ONCE)

        async def score(index: int) -> PageScores:
            async with places:
                return await self._score(job, windows[index], admitted=admitted or index > 0)

        tasks = [asyncio.create_task(score(index)) for index in range(len(windows))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _score(self, job: Job, pages: Sequence[PreparedPage], *, admitted: bool) -> PageScores:
        loop = asyncio.get_running_loop()
        with job.record.observe("prepare"):
            prepared = await loop.run_in_executor(self._threads, _prepare, job, pages)
        job.record.stage = "queue"
        scored = await asyncio.wrap_future(self._batcher.submit(prepared, admitted=admitted, trace=job.record.trace))
        self._metrics.observe_stages({"queue": scored.queue_seconds}, job.record.exemplar)
        job.record.add({"queue": scored.queue_seconds, **scored.stage_seconds})
        return scored.scores


def rank_options(submission: Submission, settings: Settings) -> RankOptions:
    """Raises InvalidRequestError where the stride is larger than the window."""
    asked = submission.options.ziprerank
    window_size = asked.window_size or settings.window_size
    # A window without a stride keeps the configured proportion (the published one is one half).
    stride = asked.stride or max(1, window_size * settings.stride // settings.window_size)
    if stride > window_size:
        message = (
            f"ziprerank: stride is {stride} and window_size {window_size}; "
            f"1 <= stride <= window_size <= {MAX_WINDOW_SIZE} must hold."
        )
        raise InvalidRequestError("invalid_request", message, param="ziprerank")
    return RankOptions(
        keep_ratio=asked.keep_ratio or settings.keep_ratio,
        window_size=window_size,
        stride=stride,
        window_strategy=asked.window_strategy or settings.window_strategy,
    )


def check_query(query: str, limit: int) -> None:
    """Raises InvalidRequestError for a query that is empty or above the limit: before any page is decoded."""
    if len(query) > limit:
        message = f"query: {len(query)} characters and the limit is {limit}. Shorten it; nothing is cut silently."
        raise InvalidRequestError("invalid_request", message, param="query")
    if not query.strip():
        message = "query: it is empty. Say what the pages should be ranked by."
        raise InvalidRequestError("invalid_request", message, param="query")


def _prepare(job: Job, pages: Sequence[PreparedPage]) -> PreparedRequest:
    try:
        return job.preparer.prepare(job.query, pages, job.options.keep_ratio)
    except QueryError as error:
        raise InvalidRequestError("invalid_request", f"query: {error}", param="query") from error
    except PageCountError as error:
        raise InvalidRequestError("invalid_request", f"documents: {error}", param="documents") from error


def build_response(
    submission: Submission, pages: Sequence[LoadedPage], ranking: Ranking, *, request_id: str, model: str
) -> dict[str, Any]:
    """The answer without timings, best page first."""
    options = submission.options
    scores, meaning, warnings = _chosen_scores(ranking, options.raw_scores or False)
    shown = ranking.order[: options.top_n] if options.top_n else ranking.order
    tokens = token_counts(ranking)["prompt_tokens"]
    return {
        "id": request_id,
        "object": "rerank",
        "created": int(time.time()),
        "model": model,
        "results": [_result(pages[index], scores[index], options.return_documents or False) for index in shown],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1, "total_tokens": tokens},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
            "score": meaning,
            "windows": len(ranking.windows),
            "warnings": [*submission.warnings, *warnings],
        },
    }


def _chosen_scores(ranking: Ranking, raw_scores: bool) -> tuple[Sequence[float], str, list[str]]:
    """Score by page, what it means, and what to warn of."""
    if ranking.logits is None:
        warning = "raw_scores has no effect: logits of several windows do not compare; scores fall evenly with rank"
        return ranking.scores, "rank", [warning] if raw_scores else []
    return (ranking.logits, "logit", []) if raw_scores else (ranking.scores, "softmax", [])


def _result(page: LoadedPage, score: float, with_document: bool) -> dict[str, Any]:
    result: dict[str, Any] = {
        "index": page.document_index,
        "id": page.label,
        "page": page.number,
        "relevance_score": score,
    }
    if page.degraded:
        result["degraded"] = True
    if with_document:
        result["document"] = {"text": "", "id": page.label, "page": page.number, "sha256": page.document_sha256}
    return result


def _describe(
    trace: Trace, job: Job, submission: Submission, pages: Sequence[LoadedPage], body: Mapping[str, Any]
) -> None:
    trace.describe_ranking(
        model=job.preparer.name,
        top_n=submission.options.top_n,
        counts=job.record.sizes,
        keep_ratio=job.options.keep_ratio,
    )
    trace.describe_documents(
        lambda: RankedDocuments(
            candidates=[page.label for page in pages],
            results=[(result["id"], result["relevance_score"]) for result in body["results"]],
        )
    )


def measurements(record: RequestRecord, ranking: Ranking) -> dict[str, Any]:
    """The `ziprerank` group of the answer: milliseconds by stage, visual tokens before and after pruning, cached pages."""
    stages = {stage: round(seconds * 1000, 3) for stage, seconds in record.seconds.items()}
    tokens = token_counts(ranking)
    total = round((time.perf_counter() - record.started) * 1000, 3)
    return {
        "timings_ms": {**stages, "total": total},
        "visual_tokens": {"before": tokens["visual_tokens"], "after": tokens["kept_tokens"]},
        "cache": {"hits": tokens["cached_pages"], "misses": tokens["window_pages"] - tokens["cached_pages"]},
    }


def token_counts(ranking: Ranking) -> dict[str, int]:
    """Summed over windows: pages, those whose features were cached, visual tokens before and after pruning, prompt tokens."""
    return {
        "window_pages": sum(len(window.logits) for window in ranking.windows),
        "cached_pages": sum(window.cached_pages for window in ranking.windows),
        "visual_tokens": sum(window.visual_tokens for window in ranking.windows),
        "kept_tokens": sum(window.kept_tokens for window in ranking.windows),
        "prompt_tokens": sum(window.prompt_tokens for window in ranking.windows),
    }
