"""The device's thread: whatever a batch does, every member is answered."""

import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Event, Semaphore

import pytest
import torch

from model import (
    DeviceLostError,
    DeviceMemoryError,
    FakeRankingModel,
    Observe,
    PageScores,
    PreparedPage,
    PreparedRequest,
    Reranker,
    no_observation,
)
from model.device import running_on
from model.ranking_model import BetweenLayers
from service.errors import InternalError, ServiceError, UnavailableError
from service.fair_queue import Standing
from service.inference.micro_batcher import BatchBudget, MicroBatcher
from service.inference.queued_work import WindowResult
from service.inference.worker import InferenceWorker
from service.metrics import Metrics
from tests.clocks import Clock
from tests.patience import eventually
from tests.service.inference.requests import request

BUDGET = BatchBudget(max_tokens=1000, max_patches=10_000, queue_limit_tokens=10_000, queue_seconds=60)


class FakePending:
    def __init__(self, answers: list[PageScores], wait: Callable[[], None]) -> None:
        self._answers = answers
        self._wait = wait

    def wait(self) -> list[PageScores]:
        self._wait()
        return self._answers


class ScriptedModel(FakeRankingModel):
    """Scores a request by its token count; `fault` may raise as a batch starts (or pages are encoded), `wait` as it ends."""

    def __init__(
        self,
        reranker: Reranker,
        fault: Callable[[list[int]], None] = lambda tokens: None,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(model=reranker)
        self.batches: list[list[int]] = []
        self.is_warm = False
        self._fault = fault
        self._wait = wait

    def warm_up(self, *, observe: Observe = no_observation) -> PageScores:
        self.is_warm = True
        return self.answers([10])[0]

    def start(
        self, batch: Sequence[PreparedRequest], *, observe: Observe, between_layers: BetweenLayers | None = None
    ) -> "FakePending":
        tokens = [prepared.token_count for prepared in batch]
        self.batches.append(tokens)
        with observe("vision"):
            self._fault(tokens)
        return FakePending(self.answers(tokens), self._wait)

    def answers(self, tokens: list[int]) -> list[PageScores]:
        return [
            PageScores(logits=(float(count),), order=(0,), visual_tokens=2, kept_tokens=1, prompt_tokens=count)
            for count in tokens
        ]

    def encode(self, pages: Sequence[PreparedPage], *, between_layers: BetweenLayers | None = None) -> int:
        self._fault([])
        return len(pages)

    def patches_to_encode(self, request: PreparedRequest) -> int:
        return request.patch_count


def run(model: ScriptedModel, tokens: list[int]) -> tuple[list[WindowResult | BaseException], InferenceWorker, Metrics]:
    """Submit all at once, run the worker to its end, and give each result or exception."""
    batcher, metrics = MicroBatcher(BUDGET), Metrics()
    lost: list[int] = []
    worker = InferenceWorker(batcher, metrics, on_lost=lambda: lost.append(1))
    futures = [batcher.submit(request(count)) for count in tokens]
    batcher.close()
    worker.start(model)
    assert worker.join(10)
    assert bool(lost) == worker.is_lost
    assert worker.running_windows == 0 and worker.stalled_seconds == 0
    return [future.exception(timeout=0) or future.result(timeout=0) for future in futures], worker, metrics


def value(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(name) or 0.0


def test_a_batch_answers_every_member_its_own_score(reranker: Reranker) -> None:
    model = ScriptedModel(reranker)
    results, _, metrics = run(model, [10, 20, 30])
    assert model.batches == [[10, 20, 30]]
    assert [result.scores.logits for result in results if isinstance(result, WindowResult)] == [
        (10.0,),
        (20.0,),
        (30.0,),
    ]
    assert value(metrics, "ziprerank_batch_tokens_sum") == 60
    assert value(metrics, "ziprerank_last_forward_timestamp_seconds") > 0


class ModelOfLayers(ScriptedModel):
    """Its second batch has three pauses, before which `submit` is called."""

    def __init__(self, reranker: Reranker, submit: Callable[[], None]) -> None:
        super().__init__(reranker)
        self._submit = submit
        self.ended: list[list[int]] = []

    def start(
        self, batch: Sequence[PreparedRequest], *, observe: Observe, between_layers: BetweenLayers | None = None
    ) -> FakePending:
        pending = super().start(batch, observe=observe)
        if len(self.batches) == 2:
            assert between_layers is not None
            self._submit()
            for _ in range(3):
                between_layers()
        self.ended.append([prepared.token_count for prepared in batch])
        return pending


@pytest.mark.parametrize(
    ("share_id", "tokens", "ended"),
    [
        ("other", 20, [[10], [20], [400]]),
        ("flood", 20, [[10], [400], [20]]),
        ("other", 600, [[10], [400], [600]]),
    ],
    ids=["short", "of the same caller", "long"],
)
def test_short_windows_of_other_callers_are_scored_while_a_long_batch_pauses(
    reranker: Reranker, share_id: str, tokens: int, ended: list[list[int]]
) -> None:
    clock = Clock()
    batcher = MicroBatcher(BUDGET, clock=clock)
    futures: list[Future[WindowResult]] = []

    def submit(count: int, share_id: str) -> None:
        futures.append(batcher.submit(request(count), standing=Standing(share_id=share_id)))

    model = ModelOfLayers(reranker, lambda: submit(tokens, share_id))
    submit(10, "other")
    submit(400, "flood")
    batcher.rates.language.add(1000, 1.0)  # so that 600 tokens take longer than others wait for
    worker = InferenceWorker(batcher, Metrics(), clock=clock)
    worker.start(model)
    eventually(lambda: len(model.ended) == 3)
    batcher.close()
    assert worker.join(10)
    assert model.ended == ended
    assert sorted(future.result(timeout=0).scores.logits for future in futures) == sorted(
        [(10.0,), (400.0,), (float(tokens),)]
    )


def test_only_the_entry_at_fault_gets_the_error(reranker: Reranker) -> None:
    def fault(tokens: list[int]) -> None:
        if 30 in tokens:
            raise RuntimeError("secret details")

    results, _, metrics = run(ScriptedModel(reranker, fault), [10, 20, 30, 40, 50])
    failed = [index for index, result in enumerate(results) if not isinstance(result, WindowResult)]
    assert failed == [2]
    assert isinstance(results[2], InternalError) and "secret" not in str(results[2])
    assert value(metrics, "ziprerank_engine_errors_total") >= 1


def test_out_of_memory_halves_the_batch_until_it_fits(reranker: Reranker) -> None:
    def fault(tokens: list[int]) -> None:
        if sum(tokens) > 45:
            raise DeviceMemoryError("too much")

    model = ScriptedModel(reranker, fault)
    results, _, metrics = run(model, [20, 20, 20, 20])
    assert all(isinstance(result, WindowResult) for result in results)
    assert model.batches == [[20, 20, 20, 20], [20, 20], [20, 20]]
    assert value(metrics, "ziprerank_oom_total") == 1


class CardOfLimitedMemory(ScriptedModel):
    """A model whose activations are tensors, counted while they live, as a card's allocator would."""

    def __init__(self, reranker: Reranker, capacity: int) -> None:
        super().__init__(reranker)
        self._capacity = capacity
        self._held = 0

    def start(
        self, batch: Sequence[PreparedRequest], *, observe: Observe, between_layers: BetweenLayers | None = None
    ) -> FakePending:
        with running_on(torch.device("cpu")):
            tokens = [prepared.token_count for prepared in batch]
            self._forward(sum(tokens))
            return FakePending(self.answers(tokens), self._wait)

    def _forward(self, tokens: int) -> None:
        activations = [self._allocate(tokens) for _ in range(3)]
        assert len(activations) == 3

    def _allocate(self, size: int) -> torch.Tensor:
        if self._held + size > self._capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        block = torch.empty(1)
        self._held += size
        weakref.finalize(block, self._free, size)
        return block

    def _free(self, size: int) -> None:
        self._held -= size


def test_entries_that_fit_alone_are_answered_after_their_batch_did_not_fit(reranker: Reranker) -> None:
    """Twelve of them, each of which needs 3 x 40 of the card's 150."""
    results, worker, metrics = run(CardOfLimitedMemory(reranker, 150), [40] * 12)
    assert [type(result) for result in results] == [WindowResult] * 12
    assert value(metrics, "ziprerank_oom_total") == 11, "once for each split"
    assert worker._batcher.budget_share < 1


def test_a_request_that_never_fits_fails_with_a_message_to_send_less(reranker: Reranker) -> None:
    def fault(tokens: list[int]) -> None:
        raise DeviceMemoryError("too much")

    results, _, _ = run(ScriptedModel(reranker, fault), [20])
    assert isinstance(results[0], UnavailableError) and results[0].code == "gpu_out_of_memory"
    assert results[0].retry_after_seconds


def test_a_lost_device_fails_every_window_and_ends_the_worker(reranker: Reranker) -> None:
    def fault(tokens: list[int]) -> None:
        raise DeviceLostError("illegal memory access")

    results, worker, _ = run(ScriptedModel(reranker, fault), [500, 400, 600, 700])
    assert worker.is_lost
    assert all(isinstance(result, UnavailableError) and result.code == "gpu_failed" for result in results)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_fails_its_own_request_only(reranker: Reranker, bad: float) -> None:
    class Broken(ScriptedModel):
        def answers(self, tokens: list[int]) -> list[PageScores]:
            answers = super().answers(tokens)
            answers[0] = PageScores(logits=(bad,), order=(0,), visual_tokens=1, kept_tokens=1, prompt_tokens=1)
            return answers

    results, _, _ = run(Broken(reranker), [10, 20])
    assert isinstance(results[0], ServiceError) and results[0].code == "score_invalid"
    assert isinstance(results[1], WindowResult)


def test_the_thread_that_scores_warms_up_first(reranker: Reranker) -> None:
    model = ScriptedModel(reranker)
    run(model, [10])
    assert model.is_warm


def test_a_failed_warm_up_is_raised_and_no_request_is_taken(reranker: Reranker) -> None:
    class Cold(ScriptedModel):
        def warm_up(self, *, observe: Observe = no_observation) -> PageScores:
            raise DeviceMemoryError("too small a card")

    batcher = MicroBatcher(BUDGET)
    waiting = batcher.submit(request(10))
    worker = InferenceWorker(batcher, Metrics())
    with pytest.raises(DeviceMemoryError):
        worker.start(Cold(reranker)).result(timeout=5)
    assert worker.join(5) and not waiting.done()


def test_a_second_batch_is_started_while_the_first_runs_and_a_third_is_not(reranker: Reranker) -> None:
    may_end = Event()

    def wait() -> None:
        may_end.wait(10)

    model = ScriptedModel(reranker, wait=wait)
    batcher = MicroBatcher(BUDGET)
    worker = InferenceWorker(batcher, Metrics())
    futures = [batcher.submit(request(900)) for _ in range(3)]
    worker.start(model)
    eventually(lambda: len(model.batches) == 2)
    assert worker.running_windows == 2 and batcher.waiting_windows == 1
    assert not futures[0].done()
    may_end.set()
    assert [future.result(timeout=5).scores.prompt_tokens for future in futures] == [900, 900, 900]
    batcher.close()
    assert worker.join(5)


def test_a_device_that_is_lost_while_a_batch_runs_fails_every_window(reranker: Reranker) -> None:
    def wait() -> None:
        raise DeviceLostError("illegal memory access")

    results, worker, _ = run(ScriptedModel(reranker, wait=wait), [500, 400, 600, 700])
    assert worker.is_lost
    assert all(isinstance(result, UnavailableError) and result.code == "gpu_failed" for result in results)


def test_a_batch_that_fails_while_it_runs_is_reported_without_details(reranker: Reranker) -> None:
    def wait() -> None:
        raise RuntimeError("secret")

    results, worker, _ = run(ScriptedModel(reranker, wait=wait), [10, 20])
    assert not worker.is_lost
    assert all(isinstance(result, InternalError) and "secret" not in str(result) for result in results)


def test_pages_are_encoded_ahead_and_a_failure_fails_no_request(reranker: Reranker) -> None:
    faults = iter([RuntimeError("broken page"), None])

    def fault(tokens: list[int]) -> None:
        if not tokens and (error := next(faults)):
            raise error

    batcher = MicroBatcher(BUDGET)
    worker = InferenceWorker(batcher, Metrics())
    failing, fine = (batcher.submit_background(request(10).pages) for _ in range(2))
    worker.start(ScriptedModel(reranker, fault))
    assert isinstance(failing.exception(timeout=5), RuntimeError)
    assert fine.result(timeout=5) is None
    assert batcher.submit(request(10)).result(timeout=5).scores.prompt_tokens == 10
    batcher.close()
    assert worker.join(5)


def test_busy_time_grows_while_the_device_works_and_not_while_it_waits(reranker: Reranker) -> None:
    clock = Clock(100.0)
    batcher, metrics = MicroBatcher(BUDGET), Metrics()

    def work() -> None:
        clock.now += 3

    worker = InferenceWorker(batcher, metrics, clock=clock)
    worker.start(ScriptedModel(reranker, wait=work))
    assert value(metrics, "ziprerank_gpu_busy_seconds_total") == 0
    assert batcher.submit(request(10)).result(timeout=5)
    clock.now += 1000  # nothing to do
    assert batcher.submit(request(10)).result(timeout=5)
    assert value(metrics, "ziprerank_gpu_busy_seconds_total") == 6
    batcher.close()
    assert worker.join(5)


def test_busy_time_counts_two_batches_on_the_device_once_and_pages_encoded_ahead_too(reranker: Reranker) -> None:
    clock, ends = Clock(100.0), Semaphore(0)
    batcher, metrics = MicroBatcher(BUDGET), Metrics()

    def work() -> None:
        assert ends.acquire(timeout=5)
        clock.now += 2

    def encode(tokens: list[int]) -> None:
        if not tokens:
            clock.now += 5

    model = ScriptedModel(reranker, fault=encode, wait=work)
    worker = InferenceWorker(batcher, metrics, clock=clock)
    worker.start(model)
    futures = [batcher.submit(request(900)) for _ in range(2)]
    eventually(lambda: worker.running_windows == 2)
    ends.release(2)
    assert all(future.result(timeout=5) for future in futures)
    assert value(metrics, "ziprerank_gpu_busy_seconds_total") == 4
    assert batcher.submit_background(request(10).pages).result(timeout=5) is None
    batcher.close()
    assert worker.join(5)
    assert value(metrics, "ziprerank_gpu_busy_seconds_total") == 9


def test_a_batch_that_fails_was_busy_time_too(reranker: Reranker) -> None:
    clock = Clock(100.0)
    batcher, metrics = MicroBatcher(BUDGET), Metrics()

    def fault(tokens: list[int]) -> None:
        clock.now += 7
        raise RuntimeError("broken")

    worker = InferenceWorker(batcher, metrics, clock=clock)
    failing = batcher.submit(request(10))
    worker.start(ScriptedModel(reranker, fault))
    assert isinstance(failing.exception(timeout=5), InternalError)
    assert value(metrics, "ziprerank_gpu_busy_seconds_total") == 7
    batcher.close()
    assert worker.join(5)


def test_pages_of_a_long_window_are_encoded_before_it_while_there_are_several_callers(reranker: Reranker) -> None:
    encoded: list[int] = []

    class Cached(ScriptedModel):
        def encode(self, pages: Sequence[PreparedPage], *, between_layers: BetweenLayers | None = None) -> int:
            encoded.append(len(pages))
            time.sleep(0.01)
            return len(pages)

        def pages_to_encode(self, request: PreparedRequest) -> Sequence[PreparedPage]:
            return request.pages

    model, metrics = Cached(reranker), Metrics()
    batcher = MicroBatcher(BUDGET)
    batcher.rates.vision.add(100, 1.0)
    short = batcher.submit(request(20, patches=0), standing=Standing(share_id="a"))
    long = batcher.submit(request(30, patches=900), standing=Standing(share_id="b"))
    batcher.close()
    worker = InferenceWorker(batcher, metrics)
    worker.start(model)
    assert worker.join(10)
    assert encoded == [1] and model.batches == [[20], [30]]
    assert short.result().scores.prompt_tokens == 20
    result = long.result()
    assert result.stage_seconds["vision"] > 0 and result.queue_seconds >= 0
