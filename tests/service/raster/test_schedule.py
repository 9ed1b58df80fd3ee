import threading

import numpy as np
import pytest

from service.errors import (
    OverloadedError,
    PageOutOfRangeError,
    ServiceError,
    TooLargeError,
    UnavailableError,
    UnusableDocumentError,
)
from service.page_selection import parse_page_selection
from service.raster.request import RasterDocument, RasterPage, RasterRequest, RasterTask
from service.raster.schedule import RasterSchedule


def make_request(page_counts: list[int], *, max_pages: int = 100, pages: str | None = None) -> RasterRequest:
    """A request whose documents will turn out to have these page counts."""
    selection = parse_page_selection(pages) if pages else None
    documents = [RasterDocument(data=b"%d" % count, kind="pdf", pages=selection) for count in page_counts]
    return RasterRequest(documents, max_pages=max_pages)


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
    if task.number is None:
        task.state.page_count = int(task.state.document.data)
        task.state.is_paged = True
        schedule.counted(task)
    else:
        schedule.rendered(task, make_page(task))


def make_page(task: RasterTask) -> RasterPage:
    pixels = np.zeros((1, 1, 3), np.uint8)
    return RasterPage(
        document_index=task.state.index, number=task.number, pixels=pixels, degraded=False, document_sha256=""
    )


def run(schedule: RasterSchedule, request: RasterRequest) -> list[tuple[int, int | None]]:
    schedule.admit(request)
    while not request.is_over:
        finish(schedule, take(schedule))
    return [(page.document_index, page.number) for page in request.future.result()]


def unusable(index: int) -> ServiceError:
    return UnusableDocumentError("corrupt_document", "bad", document_index=index)


def test_pages_come_in_document_order() -> None:
    assert run(make_schedule(), make_request([2, 1])) == [(0, 1), (0, 2), (1, 1)]


def test_pages_of_a_document_come_in_selection_order() -> None:
    assert run(make_schedule(), make_request([3], pages="3,1-2")) == [(0, 3), (0, 1), (0, 2)]


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
    assert short.is_over and not long.is_over


def test_too_many_pages_names_number_and_limit() -> None:
    with pytest.raises(TooLargeError, match=r"7 pages are selected, at most 5") as caught:
        run(make_schedule(), make_request([3, 4], max_pages=5))
    assert caught.value.code == "too_many_pages"


def test_enormous_page_count_is_refused_without_being_expanded() -> None:
    with pytest.raises(TooLargeError):
        run(make_schedule(), make_request([10_000_000] * 9))


def test_selection_beyond_the_end_names_the_document() -> None:
    with pytest.raises(PageOutOfRangeError, match=r"documents\[1\]: page 3 does not exist") as caught:
        run(make_schedule(), make_request([3, 2], pages="3"))
    assert caught.value.document_index == 1


def test_lowest_failure_is_reported_whichever_comes_first() -> None:
    schedule = make_schedule(workers=3)
    request = make_request([1, 1, 1, 1])
    schedule.admit(request)
    first, second, third = (take(schedule) for _ in range(3))
    schedule.failed(third, unusable(2))
    schedule.failed(second, unusable(1))
    assert not request.future.done()
    finish(schedule, first)
    with pytest.raises(UnusableDocumentError) as caught:
        request.future.result()
    assert caught.value.document_index == 1
    assert schedule.running_tasks == 0


def test_failure_drops_the_tasks_that_have_not_begun() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([1] * 10))
    schedule.failed(take(schedule), unusable(0))
    assert request.is_over


def test_withdrawn_request_gets_no_further_task_and_frees_its_place() -> None:
    schedule = make_schedule(workers=1, queue_requests=0)
    schedule.admit(request := make_request([5]))
    finish(schedule, take(schedule))
    task = take(schedule)
    schedule.withdraw(request)
    schedule.admit(other := make_request([1]))
    schedule.rendered(task, make_page(task))
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
    assert not started.is_over
    with pytest.raises(UnavailableError) as caught:
        waiting.future.result()
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
    turns = []
    finish(schedule, take(schedule))
    task = take(schedule)
    idle = threading.Thread(target=lambda: turns.append(schedule.take([request.states[0].key])))
    idle.start()
    finish(schedule, task)
    idle.join(timeout=5)
    assert turns[0].task is None and turns[0].stale == (request.states[0].key,)


def test_closing_fails_what_waits_and_ends_the_workers() -> None:
    schedule = make_schedule()
    schedule.admit(request := make_request([1]))
    schedule.close()
    with pytest.raises(UnavailableError) as caught:
        request.future.result()
    assert caught.value.code == "draining"
    assert schedule.take(()) is None
    with pytest.raises(UnavailableError):
        schedule.admit(make_request([1]))
