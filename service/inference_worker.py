"""The one thread that owns the device: takes batches, scores them, answers every member.

A batch that fails is split in halves until the entry at fault stands alone, so one entry never fails its batch mates. A lost
device ends the thread: what waits is answered 503 and the process should be restarted. Knows no HTTP.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from threading import Thread
from typing import Protocol

from model import DeviceLostError, DeviceMemoryError, Observe, PageScores, PreparedRequest
from service.errors import InternalError, ServiceError, UnavailableError
from service.metrics import Metrics
from service.micro_batcher import Entry, MicroBatcher, Scored

logger = logging.getLogger(__name__)


class Clock(Protocol):
    def observe(self, stage: str) -> AbstractContextManager[None]: ...
    def seconds(self) -> dict[str, float]: ...


class Scorer(Protocol):
    """What the worker needs of a `model.Reranker`."""

    def score(self, batch: Sequence[PreparedRequest], *, observe: Observe) -> list[PageScores]: ...
    def stage_clock(self) -> Clock: ...


class InferenceWorker:
    def __init__(
        self,
        batcher: MicroBatcher,
        metrics: Metrics,
        *,
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batcher = batcher
        self._metrics = metrics
        self._on_lost = on_lost
        self._clock = clock
        self._thread: Thread | None = None
        self._batch_started_at: float | None = None
        self.running_entries = 0
        self.is_lost = False

    def start(self, scorer: Scorer) -> None:
        """Take batches until the batcher is closed and empty."""
        self._thread = Thread(target=self._run, args=(scorer,), name="inference", daemon=True)
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread's end; whether it came in time."""
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def stalled_seconds(self) -> float:
        """How long the current batch has been on the device; 0 when idle."""
        started = self._batch_started_at
        return 0.0 if started is None else self._clock() - started

    def _run(self, scorer: Scorer) -> None:
        while batch := self._batcher.take():
            started = self._batch_started_at = self._clock()
            self.running_entries = len(batch)
            self._record_batch(batch)
            self._score(scorer, batch, started)
            self.running_entries, self._batch_started_at = 0, None
            self._batcher.record_rate(_tokens(batch), self._clock() - started)
            self._metrics.last_forward.set(time.time())
            if self.is_lost:
                return

    def _score(self, scorer: Scorer, batch: list[Entry], started: float) -> None:
        """Resolve every future of `batch`, whatever happens."""
        clock = scorer.stage_clock()
        try:
            answers = scorer.score([entry.request for entry in batch], observe=clock.observe)
            assert len(answers) == len(batch), "a scorer answers every request of its batch"
            stage_seconds = clock.seconds()
        except Exception as error:  # noqa: BLE001 (every member is answered: split, or told)
            failure: Exception = error
        else:
            self._metrics.observe_stages(stage_seconds)
            for entry, scores in zip(batch, answers, strict=True):
                self._resolve(entry, scores, started, stage_seconds)
            return
        self._recover(scorer, batch, failure, started)

    def _recover(self, scorer: Scorer, batch: list[Entry], failure: Exception, started: float) -> None:
        self._record_failure(batch, failure)
        if isinstance(failure, DeviceLostError):
            self._lose(batch)
        elif len(batch) == 1:
            batch[0].future.set_exception(_told(failure))
        else:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                if self.is_lost:
                    self._lose(half)
                else:
                    self._score(scorer, half, started)

    def _resolve(self, entry: Entry, scores: PageScores, started: float, stage_seconds: dict[str, float]) -> None:
        if not scores.is_finite:
            message = "The model gave no finite score for this request. The fault is ours; it is in the log."
            logger.error("scores are not finite: %d pages, %d tokens", len(scores.logits), scores.prompt_tokens)
            entry.future.set_exception(InternalError("score_invalid", message))
            return
        self._metrics.visual_tokens.labels("input").inc(scores.visual_tokens)
        self._metrics.visual_tokens.labels("kept").inc(scores.kept_tokens)
        queue_seconds = started - entry.queued_at
        entry.future.set_result(Scored(scores=scores, queue_seconds=queue_seconds, stage_seconds=stage_seconds))

    def _lose(self, batch: Sequence[Entry]) -> None:
        """The device is gone for this process: answer these entries and everything that waits."""
        if not self.is_lost:  # first, so that nobody who reads an answer still sees a service that looks ready
            self.is_lost = True
            self._on_lost()
            self._batcher.close()
            self._batcher.fail_waiting(_lost_error())
        for entry in batch:
            entry.future.set_exception(_lost_error())

    def _record_batch(self, batch: Sequence[Entry]) -> None:
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.batch_pages.observe(sum(len(entry.request.pages) for entry in batch))
        self._metrics.batch_tokens.observe(_tokens(batch))

    def _record_failure(self, batch: Sequence[Entry], failure: Exception) -> None:
        self._metrics.engine_errors.inc()
        if isinstance(failure, DeviceMemoryError):
            self._metrics.out_of_memory.inc()
        logger.error("a batch of %d entries, %d tokens failed", len(batch), _tokens(batch), exc_info=failure)


def _tokens(batch: Sequence[Entry]) -> int:
    return sum(entry.request.token_count for entry in batch)


def _told(failure: Exception) -> ServiceError:
    """What the client of a failing entry is told."""
    if isinstance(failure, DeviceMemoryError):
        message = "The request does not fit into the device's memory. Send fewer pages or a smaller keep_ratio."
        return UnavailableError("gpu_out_of_memory", message, retry_after_seconds=5)
    return InternalError("internal_error", "The request could not be scored. The fault is ours; it is in the log.")


def _lost_error() -> UnavailableError:
    message = "The device failed and the service is restarting. Send the request again, or to another replica."
    return UnavailableError("gpu_failed", message, retry_after_seconds=5)
