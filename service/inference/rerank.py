"""The way of one query to its answer: documents, pages, windows, scores.

Only awaits and moves small objects on the event loop; decoding, resizing and scoring happen in processes and threads.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

from model import (
    KeptTokens,
    PageCountError,
    PageScores,
    PreparedPage,
    PreparedRequest,
    QueryError,
    Ranking,
    RankingModel,
    choose_windows,
    combine_windows,
)
from service.dialects.results import results_of
from service.documents.gather import gather, gather_usable
from service.documents.held_pages import HeldPages, PageShare
from service.documents.loaded import ListedPage, Loaded, LoadedPage
from service.documents.loader import PageLoader
from service.documents.sources import Source, loading_stage
from service.errors import DeadlineExceededError, InvalidRequestError, ServiceError
from service.fair_queue import MAX_SLOWNESS, Standing
from service.fair_threads import FairThreads
from service.fetching.fetcher import UrlFetcher
from service.inference.blending import blended
from service.inference.micro_batcher import MicroBatcher
from service.inference.options import RankSettings, check_query_text, choose_rank_settings
from service.inference.page_rates import PageRates
from service.inference.queued_work import WindowResult
from service.inference.request_record import RequestRecord
from service.inference.request_timing import Done, RequestTiming, Timekeeper, TimeLimit
from service.metrics import Metrics
from service.records import Caller, RankedPage, RerankAnswer, RerankQuery, TokenCounts, UrlDocument
from service.registered.registry import DocumentRegistry
from service.settings import Settings
from service.tracing import RankedDocuments, Trace

_WINDOWS_AT_ONCE = 2  # one on the device, one behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """The values that the steps of one query share."""

    request_id: str
    text: str
    settings: RankSettings
    model: RankingModel
    record: RequestRecord
    timing: RequestTiming
    standing: Standing  # in the queue
    threads: Executor  # the caller's
    wants_kept_tokens: bool = False
    queued: "list[Future[WindowResult]]" = field(default_factory=list)  # every window so far


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRanking:
    """A ranking, and how much of the work that was asked for it is."""

    ranking: Ranking
    kept: Mapping[int, KeptTokens]  # by page; of those that a window ranked, where the query asks for them
    done: Done


class RerankPipeline:
    """Used on the event loop. `threads` prepare windows for the model."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: DocumentRegistry,
        fetcher: UrlFetcher,
        loader: PageLoader,
        batcher: MicroBatcher,
        metrics: Metrics,
        timekeeper: Timekeeper,
        threads: FairThreads,
        page_rates: PageRates,
        held_pages: HeldPages,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._fetcher = fetcher
        self._loader = loader
        self._batcher = batcher
        self._metrics = metrics
        self.timekeeper = timekeeper
        self._threads = threads
        self.page_rates = page_rates
        self._held_pages = held_pages

    @property
    def fetches_urls(self) -> bool:
        return self._fetcher.is_on

    def refuse_early(self, caller: Caller, *, pages: int = 1) -> None:
        """Refuse a request that would be refused later, before more work goes into it. pages: that it has, or more.

        Raises: OverloadedError.
        """
        self.page_rates.check(caller, pages)
        self._batcher.refuse_when_full(caller.share_id)

    async def answer(
        self,
        query: RerankQuery,
        *,
        caller: Caller,
        model: RankingModel,
        record: RequestRecord,
        request_id: str,
        limit: TimeLimit | None = None,
    ) -> RerankAnswer:
        """Rank the pages of the query's documents. Cancelling drops the work that has not begun.

        limit: the answer comes within it, from less work if it must be. None: it takes as long as it takes.
        Raises: ServiceError; OverloadedError where even the least work does not fit the limit.
        """
        settings = choose_rank_settings(query.options, self._settings)
        check_query_text(query.text, self._settings.max_query_characters)
        self.refuse_early(caller, pages=1 if query.skips_unusable else len(query.documents))
        standing = standing_of(caller, query.priority)
        context = RequestContext(
            request_id=request_id,
            text=query.text,
            settings=settings,
            model=model,
            record=record,
            timing=self.timekeeper.start(
                limit, settings, model, query_characters=len(query.text), share_id=caller.share_id
            ),
            standing=standing,
            threads=self._threads.of(standing),
            wants_kept_tokens=query.wants_kept_tokens,
        )
        with self._held_pages.share(caller.share_id) as held:
            async with context.timing.required():
                loaded = await self._load_pages(query, caller, context, held)
            self._count_loaded(loaded, query, caller, record)
            timed = await self._rank(context, [page.prepared for page in loaded.pages], left_out=len(loaded.unloaded))
            return self._answer_of(query, context, loaded, timed)

    async def _load_pages(self, query: RerankQuery, caller: Caller, context: RequestContext, held: PageShare) -> Loaded:
        """Every page on the model's grid, or as many as there is time for, in the order of the documents."""
        record = context.record
        urls = {index: given.url for index, given in enumerate(query.documents) if isinstance(given, UrlDocument)}
        async with AsyncExitStack() as stack:
            fetched: Mapping[int, bytearray | ServiceError] = {}
            if urls:
                with record.observe("fetch"):
                    fetched = await stack.enter_async_context(
                        self._fetcher.fetched(urls, request_id=context.request_id, skips_unusable=query.skips_unusable)
                    )
            find_sources: Callable[..., Awaitable[Sequence[Source | ServiceError]]]
            find_sources = gather_usable if query.skips_unusable else gather
            with record.observe("parse"):
                sources = await find_sources(
                    query.documents,
                    tenant=caller.tenant,
                    registered=self._registry,
                    max_file_bytes=self._settings.max_file_bytes,
                    threads=context.threads,
                    fetched=fetched,
                )
            record.stage = loading_stage(sources)
            loaded = await self._loader.load(
                sources,
                context.model,
                tenant=caller.tenant,
                share_id=caller.share_id,
                threads=context.threads,
                skips_unusable=query.skips_unusable,
                pace=context.timing,
                held=held,
                trace=record.trace,
            )
        record.add(loaded.stage_seconds)
        return loaded

    def _count_loaded(self, loaded: Loaded, query: RerankQuery, caller: Caller, record: RequestRecord) -> None:
        self.page_rates.spend(caller, len(loaded.pages))
        record.sizes.update(documents=len(query.documents), pages=len(loaded.pages) + len(loaded.unloaded))
        if loaded.skipped:
            record.sizes.update(skipped=len(loaded.skipped))
            for error in loaded.skipped:
                self._metrics.count_skipped(error.code)

    def _answer_of(
        self, query: RerankQuery, context: RequestContext, loaded: Loaded, timed: TimedRanking
    ) -> RerankAnswer:
        record, timing, ranking = context.record, context.timing, timed.ranking
        pages: tuple[LoadedPage | ListedPage, ...] = (*loaded.pages, *loaded.unloaded)
        self._metrics.request_documents.observe(len(query.documents))
        self._metrics.request_pages.observe(len(pages))
        with record.observe("respond"):
            tokens = count_tokens(ranking)
            ranked = rank_pages(pages, ranking, timed.kept)
            score_kind: Literal["softmax", "rank", "blend"] = "rank" if ranking.logits is None else "softmax"
            if query.blend is not None:
                ranked, score_kind = blended(ranked, query.blend), "blend"
        record.sizes.update(
            window_pages=tokens.window_pages,
            cached_pages=tokens.cached_pages,
            visual_tokens=tokens.visual_tokens,
            kept_tokens=tokens.kept_tokens,
            prompt_tokens=tokens.prompt_tokens,
        )
        answer = RerankAnswer(
            request_id=context.request_id,
            created=int(time.time()),
            model=context.model.name,
            pages=ranked,
            score_kind=score_kind,
            windows=len(ranking.windows),
            tokens=tokens,
            stage_seconds=dict(record.seconds),
            total_seconds=time.perf_counter() - record.started,
            degradation=timing.degradation(timed.done),
            skipped=loaded.skipped,
        )
        record.answer_due_at = timing.due_at
        if answer.degradation is not None:
            self._metrics.count_degradation(answer.degradation)
        if record.trace is not None:
            _describe(record.trace, query, context, pages, answer)
        return answer

    async def _rank(self, context: RequestContext, pages: Sequence[PreparedPage], *, left_out: int) -> TimedRanking:
        """Turn by turn; each window is a queue entry of its own, so that windows of several requests share batches.

        left_out: pages that were not loaded; they follow the others in the order. The work is chosen by the time that is left,
        before each turn anew. Once the time is up, the order so far is the answer, while a window that runs goes on alone.
        """
        settings, timing = context.settings, context.timing
        started = time.perf_counter()
        work = timing.choose(pages, left_out=left_out)
        expected = timing.expected_seconds(work)
        plan = choose_windows(
            work.window_strategy, work.ranked_pages, window_size=settings.window_size, stride=settings.stride
        )
        answers: list[PageScores] = []
        kept: dict[int, KeptTokens] = {}
        ranked: set[int] = set()
        keep_ratio = lowest = work.keep_ratio
        is_cut_off = False
        with timing.claimed(work) as claim:
            while work.ranked_pages and (turn := plan.turn):
                windows = [[pages[index] for index in window] for window in turn]
                try:
                    async with timing.optional():
                        scored = await self._score_turn(context, windows, keep_ratio, is_first=not answers)
                except TimeoutError:
                    is_cut_off = True
                    claim.goes_on = any(window.running() for window in context.queued)
                    break
                lowest = min(lowest, keep_ratio)
                answers += scored
                ranked.update(*turn)
                for window, scores in zip(turn, scored, strict=True):
                    kept.update(_kept_by_page(window, scores))  # a later window takes the place of an earlier one
                plan.submit([scores.order for scores in scored])
                if plan.turn:
                    keep_ratio = timing.choose_again(work, plan, pages, claim).keep_ratio
        order = (*plan.order_so_far, *range(work.ranked_pages, len(pages) + left_out))
        done = Done(
            pages=len(order),
            ranked_pages=len(ranked),
            windows=len(answers),
            keep_ratio=lowest,
            work=work,
            is_cut_off=is_cut_off,
        )
        timing.ranked(done, expected=expected, seconds=time.perf_counter() - started)
        return TimedRanking(ranking=combine_windows(order, answers), kept=kept, done=done)

    async def _score_turn(
        self,
        context: RequestContext,
        windows: Sequence[Sequence[PreparedPage]],
        keep_ratio: float,
        *,
        is_first: bool,
    ) -> list[PageScores]:
        """Side by side, but few at a time, so that a small request does not wait behind all windows of a large one."""
        places = asyncio.Semaphore(_WINDOWS_AT_ONCE)

        async def score(index: int) -> PageScores:
            async with places:
                return await self._score(context, windows[index], keep_ratio, admitted=not is_first or index > 0)

        tasks = [asyncio.create_task(score(index)) for index in range(len(windows))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _score(
        self, context: RequestContext, pages: Sequence[PreparedPage], keep_ratio: float, *, admitted: bool
    ) -> PageScores:
        """Raises: ServiceError; TimeoutError where the window expired in the queue, as the time of the request was up."""
        loop = asyncio.get_running_loop()
        record = context.record
        with record.observe("prepare"):
            prepared = await loop.run_in_executor(context.threads, _prepare, context, pages, keep_ratio)
        record.stage = "queue"
        queued = self._batcher.submit(
            prepared,
            patches=context.model.patches_to_encode(prepared),
            standing=context.standing,
            admitted=admitted,
            expires_at=context.timing.give_up_at,
            trace=record.trace,
        )
        context.queued.append(queued)
        try:
            result = await asyncio.wrap_future(queued)
        except DeadlineExceededError as error:
            raise TimeoutError from error
        self._metrics.observe_stages({"queue": result.queue_seconds}, record.exemplar)
        record.add({"queue": result.queue_seconds, **result.stage_seconds})
        return result.scores


def standing_of(caller: Caller, priority: int) -> Standing:
    """A request's place among others. priority: as it asks; it may yield by it, but not overtake.

    Among callers the key's priority counts: at 3 the caller gets a quarter of the share of one at 0. A request that yields
    waits for all others of its caller, and counts among callers as one of the smallest share. Requests of one caller are
    finished in the order in which they came, so that under a load that is too high those that began are in time.
    """
    own = caller.limits.priority
    slowness = MAX_SLOWNESS if priority > own else min(1 + own, MAX_SLOWNESS)
    return Standing(share_id=caller.share_id, priority=max(priority, own), since=time.monotonic(), slowness=slowness)


def rank_pages(
    pages: Sequence[LoadedPage | ListedPage], ranking: Ranking, kept: Mapping[int, KeptTokens] | None = None
) -> tuple[RankedPage, ...]:
    """All pages, best first. kept: by the place in `pages`."""
    return tuple(
        RankedPage(
            document_index=pages[index].document_index,
            label=pages[index].label,
            number=pages[index].number,
            score=ranking.scores[index],
            logit=None if ranking.logits is None else ranking.logits[index],
            degraded_reasons=pages[index].degraded_reasons,
            document_sha256=pages[index].document_sha256,
            kept=kept.get(index) if kept is not None else None,
        )
        for index in ranking.order
    )


def count_tokens(ranking: Ranking) -> TokenCounts:
    """Summed over windows."""
    return TokenCounts(
        window_pages=sum(len(window.logits) for window in ranking.windows),
        cached_pages=sum(window.cached_pages for window in ranking.windows),
        visual_tokens=sum(window.visual_tokens for window in ranking.windows),
        kept_tokens=sum(window.kept_tokens for window in ranking.windows),
        prompt_tokens=sum(window.prompt_tokens for window in ranking.windows),
    )


def _kept_by_page(window: Sequence[int], scores: PageScores) -> Iterable[tuple[int, KeptTokens]]:
    return zip(window, scores.kept, strict=True) if scores.kept is not None else ()


def _prepare(context: RequestContext, pages: Sequence[PreparedPage], keep_ratio: float) -> PreparedRequest:
    try:
        prepared = context.model.prepare(context.text, pages, keep_ratio)
        return replace(prepared, reports_kept_tokens=context.wants_kept_tokens)
    except QueryError as error:
        raise InvalidRequestError("invalid_request", str(error), field="query") from error
    except PageCountError as error:
        raise InvalidRequestError("invalid_request", str(error), field="documents") from error


def _describe(
    trace: Trace,
    query: RerankQuery,
    context: RequestContext,
    pages: Sequence[LoadedPage | ListedPage],
    answer: RerankAnswer,
) -> None:
    trace.describe_ranking(
        model=context.model.name,
        max_results=query.max_results,
        counts=context.record.sizes,
        keep_ratio=context.settings.keep_ratio,
    )
    if trace.takes_documents:
        results = [(result.page.label, result.score) for result in results_of(query, answer).items]
        trace.describe_documents(RankedDocuments(candidates=[page.label for page in pages], results=results))
