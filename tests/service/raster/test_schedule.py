import threading
from dataclasses import replace

import numpy as np
import pytest

from service import host_gate
from service.errors import (
    OverloadedError,
    ServiceError,
    UnavailableError,
    UnusableDocumentError,
)
from service.host_gate import HostGate
from service.raster.page import DocumentOutline, Kind
from service.raster.process import RasterPage
from service.raster.request import RasterDocument, RasterRequest, RasterTask
from service.raster.schedule import RasterSchedule, Turn
from tests.patience import PATIENCE_SECONDS

PAGE = RasterPage(pixels=np.zeros((1, 1, 3), np.uint8), degraded_reasons=(), seconds=0.0, began_ns=0, ended_ns=0)


def make_request(
    page_counts: list[int], *, known: bool = False, is_background: bool = False, share_id: str = ""
) -> RasterRequest:
    """A request for all pages of documents that will turn out to have these page counts, or are known to."""
    documents = [make_document(count, index=index, known=known) for index, count in enumerate(page_counts)]
    request = RasterRequest(documents, share_id=share_id, is_background=is_background)
    if known:
        request.add_pages(all_pages(request))
    return request


def make_document(page_count: int, *, index: int = 0, known: bool = False) -> RasterDocument:
    outline = DocumentOutline(page_count=page_count, is_paged=True) if known else None
    return RasterDocument(index=index, data=b"%d" % page_count, sha256="", kind=Kind.PDF, outline=outline)


def all_pages(request: RasterRequest) -> list[range]:
    return [range(1, state.outline.page_count + 1) for state in request.states if state.outline]


def make_schedule(
    *, workers: int = 4, queue_requests: int = 8, queue_bytes: int = 100, storm: bool = False
) -> RasterSchedule:
    return RasterSchedule(
        workers=workers, queue_requests=queue_requests, queue_bytes=queue_bytes, is_storm=lambda: storm
    )


def take(schedule: RasterSchedule) -> RasterTask:
    turn = schedule.take(())
    assert turn and turn.task
    return turn.task


def finish(schedule: RasterSchedule, task: RasterTask) -> None:
    """Do the task. When the last document is opened, ask for all pages."""
    if task.number is not None:
        schedule.finished(task, PAGE)
        return
    schedule.finished(task, DocumentOutline(page_count=int(task.state.document.data), is_paged=True))
    if all(opening.done() for opening in task.request.openings) and not task.request.is_over:
        schedule.add_pages(task.request, all_pages(task.request))


def take_and_finish(schedule: RasterSchedule, count: int) -> list[RasterRequest]:
    """The requests of the next tasks, which one worker does."""
    taken = []
    for _ in range(count):
        finish(schedule, task := take(schedule))
        taken.append(task.request)
    return taken


def is_over(request: RasterRequest) -> bool:
    """By a call: a type checker expects a property to be the same in two asserts."""
    return request.is_over


def run(page_counts: list[int], *, known: bool = False) -> list[tuple[int | None, int]]:
    """Document and number of every page that one worker renders, in its order."""
    rendered = []
    schedule = make_schedule(workers=1)
    schedule.admit(request := make_request(page_counts, known=known))
    while not is_over(request):
        finish(schedule, task := take(schedule))
        if task.number is not None:
            assert task.result.result() is PAGE
            rendered.append((task.state.document.index, task.number))
    return rendered


def unusable(index: int) -> ServiceError:
    return UnusableDocumentError("corrupt_document", "bad", document_index=index)


def test_pages_come_in_document_order() -> None:
    assert run([2, 1]) == [(0, 1), (0, 2), (1, 1)]


def test_known_documents_are_not_opened_first() -> None:
    assert run([2, 1], known=True) == [(0, 1), (0, 2), (1, 1)]
    assert make_request([2], known=True).take().number == 1  # type: ignore[union-attr]


def test_only_unknown_documents_are_opened() -> None:
    schedule = make_schedule(workers=1)
    schedule.admit(request := RasterRequest([make_document(4), make_document(2, index=1, known=True)]))
    opened = take(schedule)
    assert opened.number is None and opened.state.document.index == 0
    finish(schedule, opened)
    numbers = []
    while not is_over(request):
        finish(schedule, task := take(schedule))
        numbers.append(task.number)
    assert numbers == [1, 2, 3, 4, 1, 2]


def test_request_with_no_pages_to_render_is_over_at_once() -> None:
    assert make_request([], known=True).is_over
    schedule = make_schedule(workers=1, queue_requests=0)
    schedule.admit(request := make_request([7]))
    schedule.finished(take(schedule), DocumentOutline(page_count=7, is_paged=True))
    assert not is_over(request)
    assert schedule.add_pages(request, [()]) == [] and is_over(request)
    schedule.admit(make_request([7]))


def test_opened_request_keeps_its_place_until_its_pages_are_chosen() -> None:
    schedule = make_schedule(workers=1, queue_requests=0)
    schedule.admit(request := make_request([7]))
    schedule.finished(take(schedule), DocumentOutline(page_count=7, is_paged=True))
    with pytest.raises(OverloadedError):
        schedule.admit(make_request([7]))
    [page] = schedule.add_pages(request, [[3]])
    assert take(schedule).number == 3 and not page.done()


def test_request_that_is_closed_between_the_phases_gets_no_pages() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([7]))
    schedule.finished(take(schedule), DocumentOutline(page_count=7, is_paged=True))
    schedule.close()
    with pytest.raises(UnavailableError):
        schedule.add_pages(request, [[1]])


def test_failed_page_drops_the_pages_that_have_not_begun_and_no_others() -> None:
    schedule = make_schedule(workers=3)
    request = RasterRequest([make_document(4, known=True)])
    first, second, third, fourth = request.add_pages(all_pages(request))
    schedule.admit(request)
    tasks = [take(schedule) for _ in range(3)]
    schedule.failed(tasks[2], unusable(2))
    schedule.failed(tasks[1], unusable(1))
    assert not is_over(request)
    finish(schedule, tasks[0])
    assert is_over(request) and fourth.cancelled()
    assert first.result() is PAGE
    for index, page in ((1, second), (2, third)):
        error = page.exception()
        assert isinstance(error, ServiceError) and error.document_index == index


@pytest.mark.parametrize("is_closed", [True, False])
def test_task_that_ends_after_its_request_changes_nothing(is_closed: bool) -> None:
    schedule = make_schedule(workers=2)
    request = RasterRequest([make_document(3, known=True)])
    first, *others = request.add_pages(all_pages(request))
    schedule.admit(request)
    finished, failed = take(schedule), take(schedule)
    if is_closed:
        schedule.close()
    else:
        schedule.withdraw(request)
    finish(schedule, finished)
    schedule.failed(failed, unusable(0))
    assert all(page.cancelled() for page in others)
    assert isinstance(first.exception(), UnavailableError) if is_closed else first.cancelled()


def test_all_documents_are_counted_before_the_first_page() -> None:
    schedule = make_schedule()
    schedule.admit(make_request([1, 1, 1]))
    tasks = [take(schedule) for _ in range(3)]
    assert [task.number for task in tasks] == [None, None, None]


def test_requests_take_turns_page_by_page() -> None:
    schedule = make_schedule(workers=1)
    long, short = make_request([50]), make_request([1])
    schedule.admit(long)
    finish(schedule, take(schedule))
    finish(schedule, take(schedule))
    schedule.admit(short)
    for _ in range(4):
        finish(schedule, take(schedule))
    assert is_over(short) and not is_over(long)


def test_lowest_failure_is_the_first_one_in_order_whichever_comes_first() -> None:
    schedule = make_schedule(workers=3)
    request = make_request([1, 1, 1, 1])
    schedule.admit(request)
    first, second, third = (take(schedule) for _ in range(3))
    schedule.failed(third, unusable(2))
    schedule.failed(second, unusable(1))
    assert not is_over(request)
    finish(schedule, first)
    assert is_over(request) and request.openings[3].cancelled()
    with pytest.raises(UnusableDocumentError) as caught:
        for opening in request.openings:
            opening.result()
    assert caught.value.document_index == 1


def test_failure_drops_the_tasks_that_have_not_begun() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([1] * 10))
    schedule.failed(take(schedule), unusable(0))
    assert is_over(request)


def test_withdrawn_request_gets_no_further_task_and_frees_its_place() -> None:
    schedule = make_schedule(workers=1, queue_requests=0)
    schedule.admit(request := make_request([5]))
    finish(schedule, take(schedule))
    task = take(schedule)
    schedule.withdraw(request)
    schedule.admit(other := make_request([1]))
    finish(schedule, task)
    assert take(schedule).request is other


def test_full_queue_refuses_with_retry_after() -> None:
    schedule = make_schedule(workers=1, queue_requests=1)
    schedule.admit(make_request([1]))
    schedule.admit(make_request([1]))
    assert schedule.waiting_requests == 1
    with pytest.raises(OverloadedError) as caught:
        schedule.admit(make_request([1]))
    assert caught.value.retry_after_seconds in range(1, 6)


def test_bytes_in_the_queue_are_bounded() -> None:
    schedule = make_schedule(queue_bytes=3)
    schedule.admit(make_request([10]))
    with pytest.raises(OverloadedError):
        schedule.admit(make_request([10]))


def test_lone_request_is_admitted_whatever_its_bytes() -> None:
    schedule = make_schedule(queue_bytes=1)
    schedule.admit(request := make_request([1000]))
    assert take(schedule).request is request


def test_request_without_a_started_task_expires() -> None:
    schedule = make_schedule()
    schedule.admit(started := make_request([1]))
    take(schedule)
    schedule.admit(waiting := make_request([1]))
    schedule.expire(started)
    schedule.expire(waiting)
    assert not is_over(started)
    with pytest.raises(UnavailableError) as caught:
        waiting.openings[0].result()
    assert caught.value.code == "queue_timeout"


def test_storm_leaves_half_of_the_workers_to_others() -> None:
    schedule = make_schedule(workers=4, storm=True)
    schedule.admit(greedy := make_request([1] * 8))
    assert [take(schedule).request for _ in range(2)] == [greedy, greedy]
    schedule.admit(other := make_request([1]))
    assert take(schedule).request is other


def test_documents_without_pages_left_are_stale() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([1, 2]))
    keys = [state.key for state in request.states]
    for _ in range(3):
        finish(schedule, take(schedule))
    turn = schedule.take(keys)
    assert turn and turn.stale == (keys[0],)


def test_idle_worker_wakes_up_to_forget_a_finished_document() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([1]))
    turns: list[Turn | None] = []
    finish(schedule, take(schedule))
    task = take(schedule)
    idle = threading.Thread(target=lambda: turns.append(schedule.take([request.states[0].key])))
    idle.start()
    finish(schedule, task)
    idle.join(timeout=PATIENCE_SECONDS)
    assert turns[0] and turns[0].task is None and turns[0].stale == (request.states[0].key,)


def test_background_request_gets_a_task_only_where_no_live_one_has_any() -> None:
    schedule = make_schedule(workers=1)
    schedule.admit(background := make_request([9], known=True, is_background=True))
    finish(schedule, first := take(schedule))
    assert first.request is background
    schedule.admit(live := make_request([2]))
    for _ in range(3):
        finish(schedule, task := take(schedule))
        assert task.request is live
    assert take(schedule).request is background


def test_background_request_leaves_one_worker_of_several_idle() -> None:
    schedule = make_schedule(workers=3)
    schedule.admit(make_request([9], known=True, is_background=True))
    for _ in range(2):
        take(schedule)
    assert schedule._next_task() is None
    schedule.admit(live := make_request([1]))
    assert take(schedule).request is live


def test_background_requests_neither_fill_the_queue_nor_expire() -> None:
    schedule = make_schedule(workers=1, queue_requests=0, queue_bytes=3)
    backgrounds = [make_request([1000], is_background=True) for _ in range(3)]
    for background in backgrounds:
        schedule.admit(background)
        schedule.expire(background)
    assert schedule.waiting_requests == 0
    schedule.admit(make_request([100]))
    assert not any(is_over(background) for background in backgrounds)


def test_closing_fails_background_requests_too() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([1], is_background=True))
    schedule.close()
    with pytest.raises(UnavailableError):
        request.openings[0].result()


def test_closing_fails_waiting_requests_and_ends_the_workers() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([1]))
    schedule.close()
    with pytest.raises(UnavailableError) as caught:
        request.openings[0].result()
    assert caught.value.code == "draining"
    assert schedule.take(()) is None
    with pytest.raises(UnavailableError):
        schedule.admit(make_request([1]))


def test_callers_take_turns_whatever_the_number_of_their_requests() -> None:
    schedule = make_schedule(workers=1)
    for _ in range(5):
        schedule.admit(make_request([50], known=True, share_id="flooder"))
    take_and_finish(schedule, 3)
    schedule.admit(other := make_request([4], known=True, share_id="other"))
    assert take_and_finish(schedule, 8).count(other) == 4


def test_requests_of_one_caller_take_turns_among_themselves() -> None:
    schedule = make_schedule(workers=1)
    requests = [make_request([5], known=True, share_id="a") for _ in range(2)]
    for request in requests:
        schedule.admit(request)
    schedule.admit(make_request([5], known=True, share_id="b"))
    taken = take_and_finish(schedule, 8)
    assert [taken.count(request) for request in requests] == [2, 2]


def test_one_caller_cannot_fill_the_queue_for_the_others() -> None:
    schedule = make_schedule(workers=1, queue_requests=3, queue_bytes=4)
    for _ in range(4):
        schedule.admit(make_request([1], share_id="flooder"))
    with pytest.raises(OverloadedError):
        schedule.admit(make_request([1], share_id="flooder"))
    schedule.admit(make_request([1], share_id="other"))
    schedule.admit(make_request([1], share_id="other"))
    with pytest.raises(OverloadedError):
        schedule.admit(make_request([1], share_id="other"))


def test_retry_after_follows_the_measured_time_of_a_page_and_the_callers_own_pages() -> None:
    schedule = make_schedule(workers=2, queue_requests=0)
    schedule.admit(make_request([41], known=True, share_id="flooder"))
    schedule.finished(take(schedule), replace(PAGE, seconds=1.0))
    schedule.admit(make_request([1], known=True, share_id="other"))
    with pytest.raises(OverloadedError) as caught:
        schedule.admit(make_request([1], share_id="flooder"))
    assert caught.value.retry_after_seconds in range(20, 31)
    with pytest.raises(OverloadedError) as caught:
        schedule.admit(make_request([1], share_id="other"))
    assert caught.value.retry_after_seconds in range(1, 3)


# Requests that skip


def test_request_that_skips_goes_on_without_the_document_and_the_page_at_fault() -> None:
    schedule = make_schedule(workers=1)
    request = RasterRequest([make_document(2, index=index) for index in range(3)], skips_unusable=True)
    schedule.admit(request)
    schedule.failed(take(schedule), unusable(0))
    assert not is_over(request)
    for _ in range(2):
        schedule.finished(take(schedule), DocumentOutline(page_count=2, is_paged=True))
    assert [state.error is None for state in request.states] == [False, True, True]
    pages = schedule.add_pages(request, [[], [1, 2], [1, 2]])
    schedule.failed(take(schedule), unusable(1))
    for _ in range(3):
        assert not is_over(request)
        finish(schedule, take(schedule))
    assert is_over(request)
    assert [page.exception() is None for page in pages] == [False, True, True, True]


def test_document_whose_last_page_is_skipped_is_stale() -> None:
    schedule = make_schedule(workers=1)
    request = RasterRequest([make_document(1, known=True), make_document(1, index=1, known=True)], skips_unusable=True)
    request.add_pages(all_pages(request))
    schedule.admit(request)
    schedule.failed(task := take(schedule), unusable(0))
    assert not is_over(request)
    turn = schedule.take([task.state.key])
    assert turn is not None and turn.stale == (task.state.key,)


def test_fault_of_the_service_ends_a_request_that_skips() -> None:
    schedule = make_schedule(workers=1)
    request = RasterRequest([make_document(3, known=True)], skips_unusable=True)
    first, *others = request.add_pages(all_pages(request))
    schedule.admit(request)
    schedule.failed(take(schedule), UnavailableError("not_ready", "no worker"))
    assert is_over(request) and all(page.cancelled() for page in others)
    assert isinstance(first.exception(), UnavailableError)


def test_pages_of_a_caller_whom_the_gate_keeps_out_wait_until_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_gate, "_LONGEST_SECONDS", 2 * PATIENCE_SECONDS)
    gate = HostGate()
    gate.enable()
    schedule = RasterSchedule(workers=3, queue_requests=8, queue_bytes=100, gate=gate)
    flood, other = (make_request([9], known=True, share_id=share_id) for share_id in ("flood", "other"))
    schedule.admit(flood)
    schedule.admit(make_request([9], known=True, is_background=True))
    schedule.admit(other)
    gate.close_for("other")
    assert take_and_finish(schedule, 9) == [other] * 9
    taken: list[RasterRequest] = []
    worker = threading.Thread(target=lambda: taken.extend(take_and_finish(schedule, 1)), daemon=True)
    worker.start()
    worker.join(0.1)
    assert not taken
    gate.open_after("other")
    worker.join(PATIENCE_SECONDS)
    assert taken == [flood]


def test_a_gate_that_opens_by_itself_lets_the_pages_of_all_callers_begin() -> None:
    gate = HostGate()
    gate.enable()
    schedule = RasterSchedule(workers=3, queue_requests=8, queue_bytes=100, gate=gate)
    schedule.admit(flood := make_request([1], known=True, share_id="flood"))
    gate.close_for("other")
    assert take(schedule).request is flood
