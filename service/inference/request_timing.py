"""One request's time: how much is left, the work that fits it, and the moment from which the answer must not wait any longer.

The choice itself is made in `time_plan`; here it gets the measured rates, the claims of other requests, and the clock. Requests
without a limit have a timing too: it chooses all of their work, and learns from them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from model import PreparedPage, RankingModel, WindowPlan
from service.documents.loaded import ListedPage
from service.errors import OverloadedError
from service.inference.device_claims import Claim, DeviceClaims
from service.inference.measured_times import MeasuredTimes
from service.inference.options import RankSettings
from service.inference.time_plan import (
    PageCost,
    RankingJob,
    Rates,
    Work,
    choose_keep_ratio,
    choose_work,
    full_work,
    window_sizes,
)
from service.raster.page import Kind
from service.time_limits import Degradation, GivenUp, OnDeadline

_LARGEST_LEAVING_SHARE = 0.5  # of the whole time, that is kept free for the last steps
_RETRY_AFTER_SECONDS = 1
_CUT_OFF = 1.25  # work that was cut off is taken to last so many times as long as it did until then


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimit:
    """The time of one request."""

    timeout_ms: int
    ends_at: float  # by the monotonic clock
    on_deadline: OnDeadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The ranking that was done, in the measures of the one that was asked for."""

    pages: int  # of the request
    ranked_pages: int  # that were in a window
    windows: int
    keep_ratio: float  # the lowest of all windows
    work: Work  # as it was chosen
    is_cut_off: bool


class Timekeeper:
    """Gives every request its timing. Used on the event loop."""

    def __init__(
        self,
        times: MeasuredTimes,
        *,
        queue_wait: Callable[[str], float] = lambda share_id: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """queue_wait: seconds until a window that is queued now would be taken, by the share of its caller."""
        self.times = times
        self.claims = DeviceClaims(clock)
        self.queue_wait = queue_wait
        self.clock = clock
        self._keeps_features: dict[str, bool] = {}  # by the name of the model, whose description takes a while

    def last_steps_seconds(self, timeout_ms: int) -> float:
        """Of the time of a request, that is kept free for the last steps of its answer, or of its refusal."""
        return min(self.times.leaving_seconds, _LARGEST_LEAVING_SHARE * timeout_ms / 1000)

    def start(
        self,
        limit: TimeLimit | None,
        settings: RankSettings,
        model: RankingModel,
        *,
        query_characters: int,
        share_id: str = "",
    ) -> "RequestTiming":
        keeps_features = self._keeps_features.get(model.name)
        if keeps_features is None:
            keeps_features = model.describe().feature_cache_device_bytes > 0
            self._keeps_features[model.name] = keeps_features
        job = RankingJob(
            pages=(),
            keep_ratio=settings.keep_ratio,
            min_keep_ratio=settings.min_keep_ratio,
            window_size=settings.window_size,
            stride=settings.stride,
            window_strategy=settings.window_strategy,
            text_tokens=self.times.text_tokens(query_characters),
            keeps_features=keeps_features,
        )
        return RequestTiming(self, limit, job, model, share_id)


class RequestTiming:
    """Belongs to one request; the `Pace` of its loading."""

    def __init__(
        self, keeper: Timekeeper, limit: TimeLimit | None, job: RankingJob, model: RankingModel, share_id: str
    ) -> None:
        self._keeper = keeper
        self._times = keeper.times
        self._limit = limit
        self._job = job  # without its pages
        self._model = model
        self._share_id = share_id
        self._loading: Work | None = None  # the choice before the pages are loaded
        self._is_late = False  # a step took longer than expected, so that less was done than was chosen
        self.due_at = keeper.clock()  # from then on the answer is only waited for

    @property
    def give_up_at(self) -> float:
        """From then on nothing but the last steps of the answer fits; infinite without a limit."""
        if self._limit is None:
            return float("inf")
        return self._limit.ends_at - self._keeper.last_steps_seconds(self._limit.timeout_ms)

    @property
    def seconds_left(self) -> float:
        """Until the request gives up."""
        return self.give_up_at - self._keeper.clock()

    def require_time(self, seconds: float = 0.0) -> None:
        """Raises: OverloadedError where the next step, of so many seconds, does not fit."""
        if self._limit is not None and self.seconds_left <= seconds:
            self._times.relax()
            raise self._too_late(seconds)

    @asynccontextmanager
    async def required(self) -> AsyncIterator[None]:
        """For work without which there is no answer. Raises: OverloadedError as the time is up."""
        self.require_time()
        try:
            async with asyncio.timeout(None if self._limit is None else self.seconds_left) as ending:
                yield
        except TimeoutError:
            if not ending.expired():
                raise
            raise self._too_late(0.0) from None

    @asynccontextmanager
    async def optional(self) -> AsyncIterator[None]:
        """For work without which the answer is less. Raises: TimeoutError as the time is up; OverloadedError in the place
        of it where the client wants no less."""
        try:
            async with asyncio.timeout(None if self._limit is None else self.seconds_left):
                yield
        except TimeoutError:
            if self._limit is not None and self._limit.on_deadline == "fail":
                raise self._too_late(0.0) from None
            raise

    # The pace of loading

    def before_opening(self, documents: int) -> None:
        self.require_time(self._times.opening_seconds(documents))

    def after_opening(self, documents: int, seconds: float) -> None:
        self._times.record_opening(documents, seconds)

    def pages_to_load(self, pages: Sequence[ListedPage]) -> int:
        missing = sum(page.prepared is None for page in pages)
        costs = [self._cost_of_listed(page, missing) for page in pages]
        self._loading = self._choose(replace(self._job, pages=costs))
        return self._loading.ranked_pages

    def seconds_to_load(self) -> float | None:
        if self._limit is None or self._loading is None:
            return None
        if self._limit.on_deadline == "fail":
            return max(0.0, self.seconds_left)
        return max(0.0, self.seconds_left - self._loading.device_seconds - self._wait(self._loading))

    def after_drawing(self, pages: Mapping[Kind, int], seconds: float) -> None:
        self._times.record_drawing(pages, seconds)
        if self._loading is not None:
            expected = self._loading.load_seconds / self._times.ratio("load")
            self._times.record_ratio("load", expected=expected, actual=seconds)

    # The ranking

    def choose(self, pages: Sequence[PreparedPage], *, left_out: int) -> Work:
        """The work on the pages that are loaded. left_out: pages that are not. Raises: OverloadedError."""
        if self._loading is not None and len(pages) < self._loading.ranked_pages:
            self._is_late = True
        if left_out and self._limit is not None and self._limit.on_deadline == "fail":
            raise self._too_late(0.0)
        return self._choose(replace(self._job, pages=[self._cost_of(page) for page in pages]))

    def choose_again(self, work: Work, plan: WindowPlan, pages: Sequence[PreparedPage], claim: Claim) -> Work:
        """The work on the turns that `plan` has left, if it must be with a lower keep ratio, or with the last turn alone."""
        rest = replace(
            self._job,
            pages=[self._cost_of(pages[index]) for index in plan.order_so_far[: plan.open_pages]],
            keep_ratio=work.keep_ratio,
            min_keep_ratio=min(work.keep_ratio, self._job.min_keep_ratio),
            window_strategy=work.window_strategy,
        )
        if self._limit is None or self._limit.on_deadline == "fail":
            chosen = full_work(rest, self._scaled_rates())
        else:
            chosen = choose_keep_ratio(
                rest, self._scaled_rates(), self.seconds_left, wait=lambda choice: self._wait(choice, claim)
            )
            if chosen.seconds + self._wait(chosen, claim) > self.seconds_left:
                plan.skip_to_last_turn()
        claim.left = chosen.device_seconds / self._times.ratio("rank")
        return chosen

    @contextmanager
    def claimed(self, work: Work) -> Iterator[Claim]:
        """The device time of the work is claimed while the block runs."""
        with self._keeper.claims.claimed(
            work.device_seconds / self._times.ratio("rank"), windows=work.windows
        ) as claim:
            yield claim

    def expected_seconds(self, work: Work) -> float:
        """Of the work on the device and the wait for it, as it usually is. Ask before the time is claimed."""
        return (work.device_seconds + self._wait(work)) / self._times.ratio("rank")

    def ranked(self, done: Done, *, expected: float, seconds: float) -> None:
        """The ranking has ended. expected: of its chosen work. seconds: that it took."""
        self._is_late |= done.is_cut_off
        self.due_at = min(self._keeper.clock(), self.give_up_at)
        if done.is_cut_off:
            self._times.record_ratio("rank", expected=expected, actual=_CUT_OFF * max(seconds, expected))
        elif done.windows and done.keep_ratio == done.work.keep_ratio:
            self._times.record_ratio("rank", expected=expected, actual=seconds)
        elif not done.windows:
            self._times.relax()

    def degradation(self, done: Done) -> Degradation | None:
        """The parts of the ranking that were given up; None: none was."""
        if self._limit is None:
            return None
        given_up = tuple(_given_up(self._job, done))
        if not given_up:
            return None
        return Degradation(
            reason="time_up" if self._is_late else "too_little_time",
            timeout_ms=self._limit.timeout_ms,
            given_up=given_up,
        )

    def _choose(self, job: RankingJob) -> Work:
        """Raises: OverloadedError where the client wants all of the work and there is no time for it."""
        rates = self._scaled_rates()
        full = full_work(job, rates)
        if self._limit is None:
            return full
        if self._limit.on_deadline == "degrade":
            return choose_work(job, rates, self.seconds_left, wait=self._wait)
        self.require_time(full.seconds + self._wait(full))
        return full

    def _wait(self, work: Work, claim: Claim | None = None) -> float:
        """claim: that of the work, where it has one."""
        if not work.windows:
            return 0.0
        claimed = self._keeper.claims.wait_seconds(work.windows, besides=claim)
        queued = self._keeper.queue_wait(self._share_id) if claim is None else 0.0
        return self._times.ratio("rank") * max(claimed, queued)

    def _scaled_rates(self) -> Rates:
        """The usual rates, times the longest that work takes against them, but for one in ten."""
        rates, ratio = self._times.rates(), self._times.ratio("rank")
        return Rates(
            visual_token={size: ratio * seconds for size, seconds in rates.visual_token.items()},
            language_token={size: ratio * seconds for size, seconds in rates.language_token.items()},
            batch=ratio * rates.batch,
        )

    def _cost_of(self, page: PreparedPage) -> PageCost:
        return PageCost(visual_tokens=page.visual_token_count, is_encoded=self._model.is_encoded(page))

    def _cost_of_listed(self, page: ListedPage, missing: int) -> PageCost:
        """missing: pages of the request that must be loaded."""
        if page.prepared is not None:
            return self._cost_of(page.prepared)
        assert page.kind is not None, "pages are missing of documents alone that were read"
        seconds = self._times.drawing_seconds(page.kind, pages_of_request=missing)
        return PageCost(
            visual_tokens=self._times.page_tokens,
            is_encoded=False,
            load_seconds=self._times.ratio("load") * seconds,
        )

    def _too_late(self, seconds: float) -> OverloadedError:
        assert self._limit is not None, "only a request with a limit is late"
        leaving = self._limit.ends_at - self.give_up_at
        passed = self._limit.timeout_ms / 1000 - self.seconds_left - leaving
        needed_ms = max(1000 * (passed + seconds + leaving), self._limit.timeout_ms + 1)
        remedy = "Raise timeout_ms, or send fewer pages."
        if self._limit.on_deadline == "fail":
            remedy = "Raise timeout_ms, send fewer pages, or let on_deadline be degrade."
        message = (
            f"The request has {self._limit.timeout_ms} ms and would need at least {needed_ms:.0f} ms, of which "
            f"{1000 * passed:.0f} ms have passed. {remedy}"
        )
        return OverloadedError("time_too_short", message, retry_after_seconds=_RETRY_AFTER_SECONDS)


def _given_up(wanted: RankingJob, done: Done) -> Iterator[GivenUp]:
    if not done.windows:
        if done.pages > 0:
            yield GivenUp(name="order", wanted="ranked", got="given")
        return
    if done.keep_ratio < wanted.keep_ratio:
        yield GivenUp(name="keep_ratio", wanted=wanted.keep_ratio, got=done.keep_ratio)
    if done.work.window_strategy != wanted.window_strategy and done.pages > wanted.window_size:
        yield GivenUp(name="window_strategy", wanted=wanted.window_strategy, got=done.work.window_strategy)
    chosen = window_sizes(
        done.work.window_strategy, done.work.ranked_pages, window_size=wanted.window_size, stride=wanted.stride
    )
    if done.windows < len(chosen):
        yield GivenUp(name="windows", wanted=len(chosen), got=done.windows)
    if done.ranked_pages < done.pages:
        yield GivenUp(name="ranked_pages", wanted=done.pages, got=done.ranked_pages)
