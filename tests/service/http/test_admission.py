"""Permits: a body's bytes as they arrive, a place of work once it is complete, all given back once; slow senders make room."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.datastructures import Headers

from service.errors import OverloadedError, TooLargeError, UnavailableError
from service.http.admission import Admission, AdmissionLimits, Permit
from service.lifecycle import Lifecycle
from service.records import Caller, CallerLimits


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def limits_of(**changes: int) -> AdmissionLimits:
    defaults: dict[str, Any] = {
        "max_body_bytes": 100, "max_concurrent_requests": 2, "max_receiving_requests": 3, "max_in_flight_bytes": 150,
        "min_body_rate": 10,
    }  # fmt: skip
    return AdmissionLimits(**{**defaults, **changes})


def admission_of(clock: Callable[[], float] | None = None, **changes: int) -> Admission:
    lifecycle = Lifecycle()
    lifecycle.become_ready()
    return Admission(lifecycle, limits_of(**changes), clock=clock or Clock())


def body_of(size: int) -> Headers:
    return Headers({"content-length": str(size)})


def caller_of(share_id: str) -> Caller:
    return Caller(id="", tenant=b"", share_id=share_id)


def held(admission: Admission) -> tuple[int, int, int]:
    return admission.receiving, admission.working, admission.body_bytes


ANYONE = Caller(id="", tenant=b"")
CHUNKED = Headers({"transfer-encoding": "chunked"})
EMPTY = Headers()


@pytest.mark.parametrize("headers", [body_of(70), CHUNKED], ids=["declared", "chunked"])
def test_a_body_counts_as_it_arrives_and_its_request_takes_a_place_of_work_when_it_is_complete(
    headers: Headers,
) -> None:
    admission = admission_of()
    permit = admission.admit(headers, ANYONE)
    assert held(admission) == (1, 0, 0)
    permit.receive(40)
    permit.receive(30)
    assert held(admission) == (1, 0, 70)
    permit.begin_work()
    permit.begin_work()
    assert held(admission) == (0, 1, 70)
    permit.release()
    permit.release()
    assert held(admission) == (0, 0, 0)


@pytest.mark.parametrize(
    ("headers", "reads_body"), [(EMPTY, True), (body_of(0), True), (body_of(9), False)], ids=["none", "empty", "unread"]
)
def test_a_request_without_a_body_to_read_takes_a_place_of_work_at_once(headers: Headers, reads_body: bool) -> None:
    admission = admission_of()
    admission.admit(headers, ANYONE, reads_body=reads_body)
    assert held(admission) == (0, 1, 0)


def test_a_permit_is_released_where_the_request_fails() -> None:
    admission = admission_of()
    with pytest.raises(RuntimeError), admission.admit(body_of(70), ANYONE) as permit:
        permit.receive(7)
        raise RuntimeError
    assert held(admission) == (0, 0, 0)


def test_requests_whose_body_arrives_keep_no_place_of_work_from_others() -> None:
    admission = admission_of()
    for _ in range(3):
        admission.admit(body_of(1), ANYONE)
    assert admission.admit(EMPTY, ANYONE).is_working


def test_while_all_places_of_work_are_taken_a_body_is_refused_before_it_is_sent() -> None:
    admission = admission_of(max_concurrent_requests=1)
    permit = admission.admit(EMPTY, ANYONE)
    with pytest.raises(OverloadedError, match="1 requests are being worked on") as refusal:
        admission.admit(body_of(1), ANYONE)
    assert refusal.value.code == "overloaded" and refusal.value.retry_after_seconds
    assert held(admission) == (0, 1, 0)
    permit.release()
    assert not admission.admit(body_of(1), ANYONE).is_working


def test_a_complete_body_for_which_no_place_of_work_is_left_is_refused() -> None:
    admission = admission_of(max_concurrent_requests=1)
    first, second = admission.admit(body_of(1), ANYONE), admission.admit(body_of(1), ANYONE)
    first.begin_work()
    with pytest.raises(OverloadedError, match="1 requests are being worked on"):
        second.begin_work()
    second.release()
    assert held(admission) == (0, 1, 0)


def test_bytes_in_flight_are_limited_as_they_arrive_and_by_what_a_new_body_declares() -> None:
    admission = admission_of()
    first, second = admission.admit(body_of(100), ANYONE), admission.admit(CHUNKED, ANYONE)
    first.receive(100)
    with pytest.raises(OverloadedError, match="100 bytes are in flight and the limit is 150"):
        admission.admit(body_of(51), ANYONE)
    second.receive(50)
    with pytest.raises(OverloadedError, match="150 bytes are in flight"):
        second.receive(1)
    assert held(admission) == (2, 0, 150)


def test_a_body_above_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TooLargeError, match="101 bytes or more and the limit is 100"):
        admission_of().admit(body_of(101), ANYONE)


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "", "9" * 16])
def test_a_length_that_cannot_be_read_declares_nothing(length: str) -> None:
    raw = [(b"content-length", length.encode("latin-1", "replace"))]
    assert not admission_of().admit(Headers(raw=raw), ANYONE).is_working


class Senders:
    """Permits whose bodies arrive, with what happened to them."""

    def __init__(self, admission: Admission, clock: Clock) -> None:
        self.admission = admission
        self._clock = clock
        self.ended: list[str] = []

    def add(self, name: str, received: int, share_id: str = "") -> Permit:
        permit = self.admission.admit(CHUNKED, caller_of(share_id))
        permit.on_eviction = lambda: self.ended.append(name)
        if received:
            permit.receive(received)
        return permit


def test_where_too_many_bodies_are_received_the_slowest_sender_makes_room() -> None:
    clock = Clock()
    senders = Senders(admission_of(clock), clock)
    slow = [senders.add(name, received) for name, received in (("b", 8), ("a", 2), ("fast", 90))]
    clock.now = 2.0  # the fast one has 45 bytes a second, the others 4 and 1
    senders.add("new", 0)
    assert senders.ended == ["a"] and slow[1].is_evicted and held(senders.admission) == (3, 0, 98)
    senders.add("newer", 0)
    assert senders.ended == ["a", "b"]
    slow[1].release()
    slow[1].receive(5)  # which were under way
    assert held(senders.admission) == (3, 0, 90)


def test_no_sender_makes_room_in_its_first_second_or_at_the_minimum_rate() -> None:
    clock = Clock()
    senders = Senders(admission_of(clock), clock)
    for name in ("a", "b", "c"):
        senders.add(name, 20)
    for clock.now in (0.9, 2.0):
        with pytest.raises(OverloadedError, match="The bodies of 3 requests are being received"):
            senders.add("new", 0)
    assert senders.ended == []
    clock.now = 2.1
    senders.add("new", 0)
    assert senders.ended == ["a"]


def test_slow_senders_give_up_their_bytes_for_a_faster_body() -> None:
    clock = Clock()
    senders = Senders(admission_of(clock, max_receiving_requests=9), clock)
    senders.add("slow", 90)
    senders.add("silent", 0)
    clock.now = 10.0
    senders.add("fast", 60)
    fast = senders.add("fast too", 40)
    assert senders.ended == ["slow"] and not fast.is_evicted
    assert held(senders.admission) == (3, 0, 100)


def test_one_caller_cannot_take_the_places_of_work_that_are_reserved_for_others() -> None:
    admission = admission_of(max_concurrent_requests=8)
    flooding, other = caller_of("flooding"), caller_of("other")
    flood = [admission.admit(EMPTY, flooding) for _ in range(8)]
    with pytest.raises(OverloadedError):
        admission.admit(EMPTY, flooding)
    for _ in range(2):
        admission.admit(EMPTY, other)
    with pytest.raises(OverloadedError):
        admission.admit(EMPTY, other)
    for permit in flood[:2]:
        permit.release()
        with pytest.raises(OverloadedError):
            admission.admit(EMPTY, flooding)
        assert admission.admit(EMPTY, other).is_working
    assert admission.working == 10, "the places go over to the caller that holds fewer, until both hold as many"


def test_a_caller_that_holds_nothing_gets_in_however_many_callers_there_are() -> None:
    admission = admission_of(max_concurrent_requests=4)
    for number in range(5):
        admission.admit(EMPTY, caller_of(str(number)))
    with pytest.raises(OverloadedError):
        admission.admit(EMPTY, caller_of("last"))


def test_bodies_of_a_caller_that_holds_too_much_make_room_for_another_caller_however_fast_they_are() -> None:
    clock = Clock()
    senders = Senders(admission_of(clock, max_receiving_requests=4), clock)
    for name in ("a", "b", "c", "d"):
        senders.add(name, 30, "flooding")
    senders.add("first", 0, "other")  # on the reserve
    senders.add("second", 0, "other")
    assert senders.ended == ["a"]
    with pytest.raises(OverloadedError):
        senders.add("e", 0, "flooding")
    senders = Senders(admission_of(clock, max_receiving_requests=8, max_in_flight_bytes=100), clock)
    for name in ("a", "b"):
        senders.add(name, 50, "flooding")
    other = senders.add("other", 25, "other")
    other.receive(25)
    assert senders.ended == ["a"]
    with pytest.raises(OverloadedError):
        other.receive(26)


def test_a_permit_of_a_share_that_is_gone_leaves_nothing_behind() -> None:
    admission = admission_of()
    for number in range(1000):
        admission.admit(EMPTY, caller_of(str(number))).release()
        with pytest.raises(TooLargeError):
            admission.admit(body_of(101), caller_of(str(number)))
    assert not admission._shares


@pytest.mark.parametrize(
    ("change", "code"),
    [("refuse", "draining"), ("fail", "gpu_failed"), ("drain", None)],
    ids=["refusing", "failed", "draining"],
)
def test_admission_follows_the_life_cycle(change: str, code: str | None) -> None:
    lifecycle = Lifecycle()
    admission = Admission(lifecycle, limits_of())
    with pytest.raises(UnavailableError) as loading:
        admission.admit(Headers(), ANYONE)
    assert loading.value.code == "not_ready" and held(admission) == (0, 0, 0)
    lifecycle.become_ready()
    getattr(lifecycle, change)()
    if code is None:
        admission.admit(Headers(), ANYONE)  # until load balancers have noticed
        return
    with pytest.raises(UnavailableError) as refusal:
        admission.admit(Headers(), ANYONE)
    assert refusal.value.code == code


def test_a_key_has_a_limit_of_its_own_beside_that_of_the_service() -> None:
    admission = admission_of(max_concurrent_requests=3)
    limited = Caller(id="team", tenant=b"", limits=CallerLimits(max_concurrent_requests=1))
    permit = admission.admit(body_of(1), limited)
    with pytest.raises(OverloadedError, match="1 requests with this API key"):
        admission.admit(body_of(1), limited)
    admission.admit(body_of(1), Caller(id="other", tenant=b"", limits=CallerLimits(max_concurrent_requests=1)))
    permit.release()
    admission.admit(body_of(1), limited)
