"""The one thread that owns the device: takes batches and starts them, the next one while one runs. A second thread answers.

At most two batches are on the device, one running and one behind it: the device never waits for the host, and windows that
arrive later can still share a batch. A batch that cannot be started is split in halves until the window at fault stands alone,
so that one window never fails its batch mates. A lost device ends the threads: queued windows fail with 503, and the process
should be restarted.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread

from model import DeviceLostError, DeviceMemoryError, PageScores, PendingBatch, RankingModel, StageClock
from service.errors import InternalError, ServiceError, UnavailableError
from service.inference.measured_times import MeasuredTimes
from service.inference.micro_batcher import MicroBatcher
from service.inference.queued_work import BackgroundEncode, QueuedWindow, WindowResult
from service.metrics import Metrics
from service.tracing import TracedWindow, record_batch

_BATCHES_ON_DEVICE = 2
_VISION = "upload", "vision"  # the stages of a vision pass

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Running:
    """Work on the device; without windows where pages are encoded ahead of requests."""

    batch: Sequence[QueuedWindow]
    clock: StageClock
    started_at: float
    is_alone: bool  # nothing else was on the device when it was started

    @property
    def paused_seconds(self) -> float:
        """In which other windows were scored in between."""
        return self.clock.paused_seconds


class InferenceWorker:
    """Scores the windows that a batcher holds. `on_lost` is called once, when the device is lost."""

    def __init__(
        self,
        batcher: MicroBatcher,
        metrics: Metrics,
        *,
        times: MeasuredTimes | None = None,
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """times: learn how long batches take."""
        self._times = times
        self._batcher = batcher
        self._metrics = metrics
        self._on_lost = on_lost
        self._clock = clock
        self._threads: list[Thread] = []
        self._places = Semaphore(_BATCHES_ON_DEVICE)
        self._started: SimpleQueue[tuple[_Running, PendingBatch] | None] = SimpleQueue()
        self._on_device: list[_Running] = []
        self._last_end = -math.inf
        self._busy_since = -math.inf  # the busy time is counted up to here; valid while work is on the device
        self._device_lock = Lock()
        self.is_lost = False

    def start(self, model: RankingModel) -> "Future[float]":
        """Warm up, then take batches until the batcher is closed and empty. The future gets the seconds of the warm-up.

        The warm-up runs in the thread that scores, because libraries keep handles and plans by thread.
        """
        is_warm: Future[float] = Future()
        is_warm.set_running_or_notify_cancel()
        for target, arguments in ((self._run, (model, is_warm)), (self._answer, ())):
            thread = Thread(target=target, args=arguments, name=f"inference{target.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return is_warm

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the threads' end; whether it came in time."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def running_windows(self) -> int:
        """Entries on the device."""
        return sum(len(running.batch) for running in self._on_device)

    @property
    def stalled_seconds(self) -> float:
        """How long the device has been busy without finishing anything; 0 when idle."""
        started = [running.started_at for running in self._on_device]
        return self._clock() - max(min(started), self._last_end) if started else 0.0

    def _run(self, model: RankingModel, is_warm: "Future[float]") -> None:
        """The first thread: warms up, then starts batches."""
        started = time.perf_counter()
        try:
            stages = model.stage_clock()
            scores = model.warm_up(observe=stages.observe)
            if self._times is not None:
                self._times.record_batch([scores], stages.seconds(), seconds=None, is_provisional=True)
        except Exception as error:  # noqa: BLE001 (raised where the future is awaited)
            is_warm.set_exception(error)
        else:
            is_warm.set_result(time.perf_counter() - started)
            self._take_batches(model)
        finally:
            self._started.put(None)

    def _take_batches(self, model: RankingModel) -> None:
        while self._places.acquire() and (work := self._take(model)) is not None:
            if isinstance(work, BackgroundEncode):
                self._encode(model, work)
            elif self._start(model, work):
                continue  # its place is given back when it is answered
            self._places.release()

    def _take(self, model: RankingModel) -> list[QueuedWindow] | BackgroundEncode | None:
        return self._batcher.take(model.patches_to_encode, model.pages_to_encode)

    def _encode(self, model: RankingModel, work: BackgroundEncode) -> None:
        """A failure here is harmless: a request that needs these pages encodes them itself and reports the error."""
        started = self._clock()
        with self._occupying([], model.stage_clock()) as running:
            try:
                callers = [] if work.window is None else [work.window.standing.share_id]
                expected = self._batcher.rates.seconds(tokens=0, patches=work.patches) if work.patches else math.inf
                pause = partial(self._score_between, model, running, callers, expected)
                encoded = model.encode(work.pages, between_layers=pause)
                seconds = self._seconds_since(started, running)
            except Exception as error:
                logger.error("could not encode %d pages ahead of requests", len(work.pages), exc_info=error)
                work.future.set_exception(error)
                if isinstance(error, DeviceLostError):
                    self._lose([])
            else:
                if work.patches and encoded == len(work.pages):
                    self._batcher.rates.vision.add(work.patches, seconds)
                if work.window is not None:
                    work.window.progress.seconds += seconds
                    self._metrics.observe_stages({"vision": seconds}, None)
                work.future.set_result(None)

    def _start(self, model: RankingModel, batch: list[QueuedWindow]) -> bool:
        """Queue `batch` on the device. False where that failed; then its windows are already answered."""
        self._count_batch(batch)
        running = self._occupy(batch, model.stage_clock())
        try:
            pending = model.start(
                [window.request for window in batch],
                observe=running.clock.observe,
                between_layers=partial(
                    self._score_between,
                    model,
                    running,
                    {window.standing.share_id for window in batch},
                    sum(window.seconds for window in batch),
                ),
            )
        except Exception as error:  # noqa: BLE001 (every window is scored in a smaller batch, or fails)
            failure: Exception = error
        else:
            self._started.put((running, pending))
            return True
        self._vacate(running)
        self._recover(model, batch, failure)
        return False

    def _score_between(self, model: RankingModel, running: _Running, callers: Collection[str], seconds: float) -> None:
        """While work for `callers` pauses between two layers: score short windows of others, who would wait for all of it.

        seconds: that the work is expected to take by itself.
        """
        while not self.is_lost and (
            short := self._batcher.take_between(callers, model.patches_to_encode, seconds=seconds)
        ):
            with running.clock.paused():
                self._count_batch(short)
                self._score_now(model, short)

    def _recover(self, model: RankingModel, batch: Sequence[QueuedWindow], failure: Exception) -> None:
        if isinstance(failure, DeviceLostError) or len(batch) == 1:
            self._fail(batch, failure)
            return
        self._record_failure(batch, failure)
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            if self.is_lost:
                self._lose(half)
            else:
                self._score_now(model, half)

    def _count_batch(self, batch: Sequence[QueuedWindow]) -> None:
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.batch_pages.observe(sum(len(window.request.pages) for window in batch))
        self._metrics.batch_tokens.observe(_tokens(batch))

    def _score_now(self, model: RankingModel, batch: Sequence[QueuedWindow]) -> None:
        """Score a part of a batch that failed as a whole, and wait for it: a further failure can be split further."""
        with self._occupying(batch, model.stage_clock()) as running:
            try:
                pending = model.start([window.request for window in batch], observe=running.clock.observe)
                answers, seconds = pending.wait(), running.clock.seconds()
            except Exception as error:  # noqa: BLE001 (every window is scored in a smaller batch, or fails)
                failure: Exception = error
            else:
                self._resolve(running, answers, seconds)
                return
        self._recover(model, batch, failure)

    def _answer(self) -> None:
        """The second thread: waits for the batches that were started, and resolves their windows."""
        while started := self._started.get():
            running, pending = started
            try:
                answers, seconds = pending.wait(), running.clock.seconds()
            except Exception as error:  # noqa: BLE001 (every window of the batch fails)
                self._vacate(running)
                self._fail(running.batch, error)
            else:
                self._vacate(running)
                self._resolve(running, answers, seconds)
            self._places.release()

    def _resolve(self, running: _Running, answers: Sequence[PageScores], seconds: dict[str, float]) -> None:
        assert len(answers) == len(running.batch), "a model answers every request of its batch"
        traced = [
            TracedWindow(trace=window.trace, queue_seconds=running.started_at - window.queued_at)
            for window in running.batch
            if window.trace is not None
        ]
        self._metrics.observe_stages(seconds, traced[0].trace.exemplar if traced else None)
        self._metrics.last_forward.set(time.time())
        if self._times is not None:
            own_seconds = self._clock() - running.started_at - running.paused_seconds if running.is_alone else None
            self._times.record_batch(answers, seconds, seconds=own_seconds)
        self._record_rates(running.batch, seconds)
        self._batcher.regain_budget()
        for window, scores in zip(running.batch, answers, strict=True):
            self._resolve_window(window, scores, running.started_at, seconds)
        if traced:
            record_batch(
                traced,
                running.clock.intervals(),
                seconds=self._clock() - running.started_at,
                attributes={
                    "ziprerank.batch.requests": len(running.batch),
                    "ziprerank.batch.pages": sum(len(window.request.pages) for window in running.batch),
                    "ziprerank.batch.tokens": _tokens(running.batch),
                },
            )

    def _record_rates(self, batch: Sequence[QueuedWindow], seconds: Mapping[str, float]) -> None:
        """seconds: of the stages of the batch."""
        vision_seconds = sum(seconds.get(stage, 0.0) for stage in _VISION)
        if patches := sum(window.patches for window in batch):
            self._batcher.rates.vision.add(patches, vision_seconds)
        self._batcher.rates.language.add(_tokens(batch), sum(seconds.values()) - vision_seconds)

    def _resolve_window(
        self, window: QueuedWindow, scores: PageScores, started_at: float, seconds: dict[str, float]
    ) -> None:
        if not scores.is_finite:
            message = "The model gave no finite score for this request. The fault is ours; it is in the log."
            logger.error("scores are not finite: %d pages, %d tokens", len(scores.logits), scores.prompt_tokens)
            window.future.set_exception(InternalError("score_invalid", message))
            return
        self._metrics.visual_tokens.labels("input").inc(scores.visual_tokens)
        self._metrics.visual_tokens.labels("kept").inc(scores.kept_tokens)
        encoded = window.progress.seconds
        queue_seconds = started_at - window.queued_at - encoded
        if encoded:
            seconds = {**seconds, "vision": seconds.get("vision", 0.0) + encoded}
        window.future.set_result(WindowResult(scores=scores, queue_seconds=queue_seconds, stage_seconds=seconds))

    def _fail(self, batch: Sequence[QueuedWindow], failure: Exception) -> None:
        self._record_failure(batch, failure)
        if isinstance(failure, DeviceLostError):
            self._lose(batch)
            return
        for window in batch:
            window.future.set_exception(client_error_for(failure))

    def _lose(self, batch: Sequence[QueuedWindow]) -> None:
        """The device is gone for this process: fail these windows and all queued ones."""
        if not self.is_lost:  # first, so that a client that has read its answer never finds the service ready
            self.is_lost = True
            self._on_lost()
            self._batcher.close()
            self._batcher.fail_waiting(_lost_error())
        for window in batch:
            window.future.set_exception(_lost_error())

    @contextmanager
    def _occupying(self, batch: Sequence[QueuedWindow], clock: StageClock) -> Iterator[_Running]:
        running = self._occupy(batch, clock)
        try:
            yield running
        finally:
            self._vacate(running)

    def _occupy(self, batch: Sequence[QueuedWindow], clock: StageClock) -> _Running:
        with self._device_lock:
            running = _Running(batch=batch, clock=clock, started_at=self._clock(), is_alone=not self._on_device)
            if not self._on_device:
                self._busy_since = running.started_at
            self._on_device.append(running)
            return running

    def _vacate(self, running: _Running) -> None:
        with self._device_lock:
            self._on_device.remove(running)
            now = self._clock()
            if running.batch:
                seconds = self._seconds_since(running.started_at, running)
                encoding_seconds = sum(window.progress.seconds for window in running.batch)
                self._batcher.rates.batches.add(_tokens(running.batch), seconds + encoding_seconds)
            self._metrics.device_busy.inc(now - self._busy_since)
            self._last_end = self._busy_since = now

    def _seconds_since(self, started: float, running: _Running) -> float:
        """In which the device worked for `running`, without the batch that was on it before."""
        paused = running.paused_seconds
        # The end of windows that were scored in between is no beginning.
        return self._clock() - (started if paused else max(started, self._last_end)) - paused

    def _record_failure(self, batch: Sequence[QueuedWindow], failure: Exception) -> None:
        self._metrics.engine_errors.inc()
        if isinstance(failure, DeviceMemoryError):
            self._metrics.out_of_memory.inc()
            self._batcher.shrink_batches(batch)
        logger.error("a batch of %d windows, %d tokens failed", len(batch), _tokens(batch), exc_info=failure)


def _tokens(batch: Sequence[QueuedWindow]) -> int:
    return sum(window.request.token_count for window in batch)


def client_error_for(failure: Exception) -> ServiceError:
    """The error for the client whose window failed."""
    if isinstance(failure, DeviceMemoryError):
        message = "The request does not fit into the device's memory. Send fewer pages or a smaller keep_ratio."
        return UnavailableError("gpu_out_of_memory", message, retry_after_seconds=5)
    return InternalError("internal_error", "The request could not be scored. The fault is ours; it is in the log.")


def _lost_error() -> UnavailableError:
    message = "The device failed and the service is restarting. Send the request again, or to another replica."
    return UnavailableError("gpu_failed", message, retry_after_seconds=5)
