from concurrent.futures import Future
from dataclasses import replace
from threading import Thread

import pytest

from service.errors import DeadlineExceededError, OverloadedError, UnavailableError
from service.fair_queue import Standing
from service.host_gate import HostGate
from service.inference.micro_batcher import BatchBudget, MicroBatcher
from service.inference.queued_work import BackgroundEncode, QueuedWindow
from tests.clocks import Clock
from tests.service.inference.requests import request

BUDGET = BatchBudget(max_tokens=100, max_patches=1000, queue_limit_tokens=300, queue_seconds=10)


def take(batcher: MicroBatcher) -> list[QueuedWindow]:
    """A batch where nothing is cached; empty at the end."""
    work = batcher.take(lambda prepared: prepared.patch_count)
    assert not isinstance(work, BackgroundEncode)
    return work or []


def learn(batcher: MicroBatcher, *, tokens_per_second: int = 100, patches_per_second: int = 1000) -> None:
    batcher.rates.language.add(tokens_per_second, 1.0)
    batcher.rates.vision.add(patches_per_second, 1.0)


def test_queued_windows_become_one_batch_within_the_token_budget() -> None:
    batcher = MicroBatcher(BUDGET)
    for tokens in (40, 40, 40):
        batcher.submit(request(tokens))
    assert [entry.request.token_count for entry in take(batcher)] == [40, 40]
    assert [entry.request.token_count for entry in take(batcher)] == [40]


def test_patches_bound_a_batch_too() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(10, patches=600))
    batcher.submit(request(10, patches=600))
    assert [len(take(batcher)), len(take(batcher))] == [1, 1]


def test_a_lower_priority_number_leaves_first_and_equal_ones_by_age() -> None:
    batcher = MicroBatcher(BUDGET)
    for tokens, priority in ((51, 5), (52, 0), (53, 9), (54, 0), (55, 5)):
        batcher.submit(request(tokens), standing=Standing(share_id="team", priority=priority))
    left = [take(batcher)[0].request.token_count for _ in range(5)]
    assert left == [52, 54, 51, 55, 53] and batcher.waiting_tokens == 0


def test_an_entry_above_the_budget_runs_alone_instead_of_never() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(250))
    batcher.submit(request(10))
    assert [entry.request.token_count for entry in take(batcher)] == [250]


def test_an_idle_device_gets_a_lone_request_at_once() -> None:
    batcher = MicroBatcher(BUDGET)
    taken: Future[int] = Future()
    Thread(target=lambda: taken.set_result(len(take(batcher))), daemon=True).start()
    batcher.submit(request(10))
    assert taken.result(timeout=60) == 1


def test_full_queue_refuses_with_retry_after() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(200))
    with pytest.raises(OverloadedError, match="200 tokens are waiting and the limit is 300") as refusal:
        batcher.submit(request(101))
    assert refusal.value.retry_after_seconds is not None and 1 <= refusal.value.retry_after_seconds <= 30
    batcher.submit(request(100))
    with pytest.raises(OverloadedError):
        batcher.refuse_when_full()


def test_an_empty_queue_takes_a_request_above_its_limit() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(301))
    assert batcher.waiting_tokens == 301


def test_later_windows_of_an_admitted_request_are_not_refused() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(300))
    batcher.submit(request(300), admitted=True)
    assert batcher.waiting_windows == 2


def test_a_client_that_has_gone_is_dropped_when_popped() -> None:
    dropped: list[int] = []
    batcher = MicroBatcher(BUDGET, on_cancelled=lambda: dropped.append(1))
    gone = batcher.submit(request(90))
    batcher.submit(request(50))
    batcher.submit(request(50))
    gone.cancel()
    assert [entry.request.token_count for entry in take(batcher)] == [50, 50]  # the budget is free for others
    assert dropped == [1]


def test_an_entry_that_waited_too_long_fails_with_queue_timeout() -> None:
    clock = Clock()
    batcher = MicroBatcher(BUDGET, clock=clock)
    late = batcher.submit(request(10))
    clock.now = 11
    batcher.submit(request(20))
    assert [entry.request.token_count for entry in take(batcher)] == [20]
    with pytest.raises(UnavailableError, match="10 s") as refused:
        late.result(timeout=0)
    assert refused.value.code == "queue_timeout"


def test_a_window_whose_request_was_to_be_answered_by_now_fails_with_deadline_exceeded() -> None:
    clock = Clock()
    batcher = MicroBatcher(BUDGET, clock=clock)
    late = batcher.submit(request(10), expires_at=3)
    clock.now = 4
    batcher.submit(request(20), expires_at=5)
    assert [entry.request.token_count for entry in take(batcher)] == [20]
    with pytest.raises(DeadlineExceededError) as refused:
        late.result(timeout=0)
    assert refused.value.code == "deadline_exceeded"


def test_a_window_of_a_request_that_was_answered_without_it_is_no_cancellation() -> None:
    clock = Clock()
    dropped: list[int] = []
    batcher = MicroBatcher(BUDGET, on_cancelled=lambda: dropped.append(1), clock=clock)
    for expires_at in (3, 30):
        batcher.submit(request(10), expires_at=expires_at).cancel()
    clock.now = 4
    batcher.submit(request(20))
    assert [entry.request.token_count for entry in take(batcher)] == [20]
    assert dropped == [1]


def test_a_window_that_must_end_soon_shares_its_batch_only_with_those_that_leave_it_time() -> None:
    batcher = MicroBatcher(BUDGET, clock=Clock())
    learn(batcher, tokens_per_second=10)
    batcher.submit(request(20, patches=0), expires_at=4.5)
    batcher.submit(request(20, patches=0))
    batcher.submit(request(10, patches=0))
    assert [entry.request.token_count for entry in take(batcher)] == [20, 20]  # two seconds each
    assert [entry.request.token_count for entry in take(batcher)] == [10]


def test_counts_follow_the_queue() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(30))
    batcher.submit(request(40))
    assert (batcher.waiting_windows, batcher.waiting_tokens, batcher.waiting_pages) == (2, 70, 2)
    take(batcher)
    assert (batcher.waiting_windows, batcher.waiting_tokens, batcher.waiting_pages) == (0, 0, 0)


def test_estimated_wait_is_tokens_over_the_measured_rate() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(50))
    assert batcher.estimated_wait_seconds == 0.0
    batcher.rates.batches.add(1000, 10.0)
    assert batcher.estimated_wait_seconds == pytest.approx(0.5)


def test_a_batch_that_seems_to_take_no_time_does_not_spoil_the_rate() -> None:
    """The end of the batch before it was noticed late, so that one seems to take as long as both."""
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(50))
    for _ in range(20):
        batcher.rates.batches.add(100, 2.0)
        batcher.rates.batches.add(100, 0.0)
    assert batcher.estimated_wait_seconds == pytest.approx(0.5, rel=0.3)


def test_a_caller_with_one_window_is_not_refused_for_the_windows_of_a_flood() -> None:
    batcher = MicroBatcher(replace(BUDGET, queue_limit_tokens=100_000))
    batcher.rates.batches.add(10, 1.0)
    batcher.submit(request(90), standing=A)
    batcher.submit(request(90), standing=B)
    for _ in range(5):
        batcher.submit(request(90), standing=B, admitted=True)
    batcher.refuse_when_full("a")
    with pytest.raises(OverloadedError):
        batcher.refuse_when_full("b")


def test_a_closed_batcher_hands_out_queued_windows_and_then_ends() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(10))
    batcher.close()
    assert len(take(batcher)) == 1
    assert take(batcher) == []
    with pytest.raises(UnavailableError):
        batcher.submit(request(10))


def test_pages_that_are_cached_cost_no_patches() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(10, patches=600))
    batcher.submit(request(10, patches=600))
    work = batcher.take(lambda prepared: 0)
    assert isinstance(work, list) and len(work) == 2


def test_pages_are_encoded_ahead_only_when_no_request_waits() -> None:
    batcher = MicroBatcher(BUDGET)
    pages = request(10).pages
    ahead = batcher.submit_background(pages)
    batcher.submit(request(10))
    assert len(take(batcher)) == 1
    work = batcher.take(lambda prepared: 0)
    assert isinstance(work, BackgroundEncode) and work.pages == pages and work.future is ahead and ahead.running()


def test_cancelled_background_pages_are_dropped() -> None:
    batcher = MicroBatcher(BUDGET)
    gone, wanted = (batcher.submit_background(request(10).pages) for _ in range(2))
    gone.cancel()
    work = batcher.take(lambda prepared: 0)
    assert isinstance(work, BackgroundEncode) and work.future is wanted


def test_a_closed_batcher_encodes_nothing_ahead() -> None:
    batcher = MicroBatcher(BUDGET)
    before = batcher.submit_background(request(10).pages)
    batcher.close()
    assert before.cancelled() and batcher.submit_background(request(10).pages).cancelled()
    assert take(batcher) == []


def test_a_batch_that_overflowed_the_device_makes_later_ones_smaller_for_a_while() -> None:
    batcher = MicroBatcher(BUDGET)
    for _ in range(4):
        batcher.submit(request(25))
    overflowed = take(batcher)
    assert len(overflowed) == 4
    batcher.shrink_batches(overflowed)
    assert batcher.budget_share == 0.5
    for _ in range(4):
        batcher.submit(request(25))
    assert [len(take(batcher)), len(take(batcher))] == [2, 2]

    batches = 0
    while batcher.budget_share < 1:
        batcher.regain_budget()
        batches += 1
    assert batches == 32, "slowly, so that a card that is short of memory overflows rarely"
    for _ in range(4):
        batcher.submit(request(25))
    assert len(take(batcher)) == 4


def test_patches_that_overflow_count_as_tokens_do() -> None:
    batcher = MicroBatcher(BUDGET)
    batcher.submit(request(10, patches=500))
    batcher.submit(request(10, patches=500))
    batcher.shrink_batches(take(batcher))
    assert batcher.budget_share == 0.5


def test_a_shrunken_budget_still_takes_one_entry() -> None:
    batcher = MicroBatcher(BUDGET)
    for _ in range(10):
        batcher.submit(request(50))
        batcher.shrink_batches(take(batcher))
    batcher.submit(request(90))
    assert len(take(batcher)) == 1


A, B = Standing(share_id="a"), Standing(share_id="b")


def test_a_flood_of_one_caller_does_not_delay_another() -> None:
    batcher = MicroBatcher(replace(BUDGET, queue_limit_tokens=100_000))
    for _ in range(1000):
        batcher.submit(request(90), standing=A)
    assert [window.standing for window in take(batcher)] == [A]
    batcher.submit(request(90), standing=B)
    assert [window.standing for window in take(batcher)] == [B]


def test_patches_that_must_be_computed_count_in_the_shares() -> None:
    """A patch takes as long as a tenth of a token, so 900 of them cost as much as 90 tokens."""
    batcher = MicroBatcher(replace(BUDGET, queue_limit_tokens=100_000))
    learn(batcher, tokens_per_second=1000, patches_per_second=10_000)
    for _ in range(20):
        batcher.submit(request(10, patches=900), standing=A)
        batcher.submit(request(10, patches=0), standing=B)
    taken: list[Standing] = []
    while len(taken) < 11:
        taken += [window.standing for window in take(batcher)]
    assert taken[:11].count(B) >= 9


def test_one_caller_cannot_fill_the_queue_for_the_others() -> None:
    batcher = MicroBatcher(BUDGET)
    for _ in range(3):
        batcher.submit(request(100), standing=A)
    with pytest.raises(OverloadedError):
        batcher.refuse_when_full("a")
    batcher.refuse_when_full("b")
    batcher.submit(request(100), standing=B)
    with pytest.raises(OverloadedError):
        batcher.submit(request(100), standing=B)


def test_a_window_that_would_not_be_taken_in_time_is_refused_at_once() -> None:
    batcher = MicroBatcher(replace(BUDGET, queue_limit_tokens=100_000))
    batcher.rates.batches.add(100, 1.0)
    for _ in range(11):
        batcher.submit(request(100), standing=A)
    with pytest.raises(OverloadedError, match="would wait 11 s for the device and the limit is 10") as refusal:
        batcher.submit(request(100), standing=A)
    assert refusal.value.retry_after_seconds is not None and 11 <= refusal.value.retry_after_seconds <= 17
    batcher.submit(request(100), standing=B)  # which does not wait for the others
    batcher.submit(request(100), standing=B)


def test_a_request_is_refused_early_where_its_window_would_probably_be_refused() -> None:
    batcher = MicroBatcher(replace(BUDGET, queue_limit_tokens=100_000))
    batcher.rates.batches.add(100, 1.0)
    for _ in range(7):
        batcher.submit(request(100), standing=A)
    batcher.refuse_when_full("a")
    batcher.submit(request(100), standing=A)
    with pytest.raises(OverloadedError, match="would wait 8 s"):
        batcher.refuse_when_full("a")
    batcher.refuse_when_full("b")
    batcher.submit(request(100), standing=A)  # of a request that passed before


def test_batches_are_short_while_there_are_several_callers() -> None:
    clock = Clock()
    batcher = MicroBatcher(BUDGET, clock=clock)
    learn(batcher, tokens_per_second=400)  # 40 tokens in a tenth of a second
    for _ in range(4):
        batcher.submit(request(15, patches=0), standing=A)
    assert len(take(batcher)) == 4, "one caller alone gets whole batches"
    batcher.submit(request(60, patches=0), standing=B)
    for _ in range(5):
        batcher.submit(request(15, patches=0), standing=A)
    sizes = []
    while batcher.waiting_windows:
        sizes.append(len(take(batcher)))
    assert sizes == [1, 2, 2, 1]
    clock.now = 301
    for _ in range(4):
        batcher.submit(request(15, patches=0), standing=A)
    assert len(take(batcher)) == 4


def test_pages_of_a_long_window_are_encoded_few_at_a_time_while_there_are_several_callers() -> None:
    batcher = MicroBatcher(BUDGET)
    pages = [replace(page, content_hash=bytes([number])) for number in range(3) for page in request(10).pages]
    long = replace(request(10, patches=900), pages=tuple(pages))

    def take_piece() -> list[QueuedWindow] | BackgroundEncode | None:
        return batcher.take(lambda prepared: prepared.patch_count, lambda prepared: prepared.pages)

    learn(batcher)
    batcher.submit(long, standing=A)
    whole = take_piece()
    assert isinstance(whole, list), "one caller alone has its windows scored whole"
    batcher.submit(long, standing=A)
    batcher.submit(request(10, patches=0), standing=B)
    first = take_piece()
    assert isinstance(first, list) and first[0].standing == B
    for page in pages:
        piece = take_piece()
        assert isinstance(piece, BackgroundEncode) and list(piece.pages) == [page]
    last = take_piece()
    assert isinstance(last, list) and last[0].request is long, "each page is tried once"


def test_a_window_whose_pages_are_being_encoded_does_not_expire() -> None:
    clock = Clock()
    batcher = MicroBatcher(BUDGET, clock=clock)
    learn(batcher)
    batcher.submit(request(10, patches=0), standing=B)
    take(batcher)
    batcher.submit(request(10, patches=900), standing=A)
    piece = batcher.take(lambda prepared: prepared.patch_count, lambda prepared: prepared.pages)
    assert isinstance(piece, BackgroundEncode)
    clock.now = 11
    batcher.close()
    assert len(take(batcher)) == 1


def test_after_windows_that_expired_the_pages_of_the_next_one_are_still_encoded_few_at_a_time() -> None:
    clock = Clock()
    batcher = MicroBatcher(BUDGET, clock=clock)
    learn(batcher)
    batcher.submit(request(10, patches=0), standing=B)
    late = batcher.submit(request(10, patches=900), standing=A)
    clock.now = 11
    batcher.submit(request(20, patches=900), standing=A, admitted=True)
    work = batcher.take(lambda prepared: prepared.patch_count, lambda prepared: prepared.pages)
    assert isinstance(work, BackgroundEncode) and work.window is not None and work.window.standing == A
    with pytest.raises(UnavailableError):
        late.result(timeout=0)


def test_a_short_window_goes_before_much_work_of_one_that_did_not_use_the_device_before() -> None:
    """Its patches take seconds, although they are as few in the budget of a batch as those tokens that take no time."""
    batcher = MicroBatcher(replace(BUDGET, queue_limit_tokens=100_000))
    learn(batcher, tokens_per_second=1000, patches_per_second=200)
    batcher.submit(request(10, patches=0), standing=A)
    for _ in range(500):
        batcher.submit(request(10, patches=0), standing=B)
        take(batcher)
    for _ in range(3):
        batcher.submit(request(10, patches=400), standing=A)
    batcher.submit(request(50), patches=0, standing=B)
    assert take(batcher)[0].standing == B


@pytest.fixture
def gate() -> HostGate:
    made = HostGate(clock=Clock())
    made.enable()
    return made


def test_a_short_window_keeps_the_page_work_of_others_out_until_it_is_answered(gate: HostGate) -> None:
    batcher = MicroBatcher(BUDGET, gate=gate)
    learn(batcher)
    take(batcher_with(batcher, A))
    answered, cancelled = (batcher.submit(request(20), patches=0, standing=B) for _ in range(2))
    assert keeps_out(gate, "a") and not keeps_out(gate, "b")
    cancelled.cancel()
    [window] = take(batcher)
    assert keeps_out(gate, "a")
    window.future.set_exception(ValueError())
    assert answered.done() and not keeps_out(gate, "a")


def test_windows_that_take_long_keep_nobody_out(gate: HostGate) -> None:
    batcher = MicroBatcher(BUDGET, gate=gate)
    learn(batcher)
    take(batcher_with(batcher, A))
    batcher.submit(request(10), patches=500, standing=B)
    assert not keeps_out(gate, "a"), "it takes 0.6 s"
    for _ in range(3):
        batcher.submit(request(20), patches=0, standing=Standing(share_id="c"))
    assert keeps_out(gate, "a"), "two take 0.4 s"
    for window in take(batcher):
        window.future.set_exception(ValueError())


def test_a_caller_that_is_alone_closes_no_gate(gate: HostGate) -> None:
    batcher = MicroBatcher(BUDGET, gate=gate)
    learn(batcher)
    for _ in range(2):
        batcher.submit(request(10), patches=0, standing=A)
    assert not keeps_out(gate, "background")


@pytest.mark.parametrize(("paused_seconds", "is_taken"), [(0.3, True), (0.1, False)])
def test_a_window_interrupts_only_work_that_takes_longer(paused_seconds: float, is_taken: bool) -> None:
    batcher = MicroBatcher(BUDGET)
    learn(batcher)
    take(batcher_with(batcher, A))
    batcher.submit(request(20), patches=0, standing=B)
    taken = batcher.take_between({"a"}, lambda prepared: 0, seconds=paused_seconds)
    assert bool(taken) == is_taken


def batcher_with(batcher: MicroBatcher, standing: Standing) -> MicroBatcher:
    """With a window of this caller."""
    batcher.submit(request(10), standing=standing)
    return batcher


def keeps_out(gate: HostGate, share_id: str) -> bool:
    return gate.state().keeps_out(share_id)
