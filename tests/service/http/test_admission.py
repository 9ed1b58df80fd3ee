"""Permits: each takes a place and the bytes of its body, and gives them back once."""

import pytest
from starlette.datastructures import Headers

from service.errors import OverloadedError, TooLargeError, UnavailableError
from service.http.admission import Admission
from service.lifecycle import Lifecycle
from service.records import Caller, CallerLimits


def admission_of(**limits: int) -> Admission:
    lifecycle = Lifecycle()
    lifecycle.become_ready()
    defaults = {"max_body_bytes": 100, "max_concurrent_requests": 2, "max_in_flight_bytes": 150}
    return Admission(lifecycle, **{**defaults, **limits})


def body_of(size: int) -> Headers:
    return Headers({"content-length": str(size)})


ANYONE = Caller(id="", tenant=b"")
CHUNKED = Headers({"transfer-encoding": "chunked"})


def test_a_permit_takes_a_place_and_bytes_and_gives_both_back() -> None:
    admission = admission_of()
    permit = admission.admit(body_of(70), ANYONE)
    assert (admission.requests, admission.body_bytes) == (1, 70)
    permit.release()
    assert (admission.requests, admission.body_bytes) == (0, 0)


def test_a_permit_that_is_released_twice_gives_back_once() -> None:
    admission = admission_of()
    first, second = admission.admit(body_of(70), ANYONE), admission.admit(body_of(30), ANYONE)
    first.release()
    first.release()
    assert (admission.requests, admission.body_bytes) == (1, second.body_bytes) == (1, 30)


def test_a_permit_is_released_where_the_request_fails() -> None:
    admission = admission_of()
    with pytest.raises(RuntimeError), admission.admit(body_of(70), ANYONE):
        raise RuntimeError
    assert (admission.requests, admission.body_bytes) == (0, 0)


def test_the_last_place_is_given_again_after_a_release() -> None:
    admission = admission_of(max_concurrent_requests=1)
    permit = admission.admit(body_of(1), ANYONE)
    with pytest.raises(OverloadedError) as refusal:
        admission.admit(body_of(1), ANYONE)
    assert refusal.value.code == "overloaded" and refusal.value.retry_after_seconds
    permit.release()
    admission.admit(body_of(1), ANYONE)


def test_bytes_in_flight_are_limited_and_a_refusal_takes_none() -> None:
    admission = admission_of()
    admission.admit(body_of(100), ANYONE)
    with pytest.raises(OverloadedError, match="100 bytes are in flight and the limit is 150"):
        admission.admit(body_of(51), ANYONE)
    assert (admission.requests, admission.body_bytes) == (1, 100)
    admission.admit(body_of(50), ANYONE)


def test_a_body_of_undeclared_length_counts_as_the_largest() -> None:
    assert admission_of().admit(CHUNKED, ANYONE).body_bytes == 100


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "", "9" * 16])
def test_a_length_that_cannot_be_read_counts_as_the_largest(length: str) -> None:
    raw = [(b"content-length", length.encode("latin-1", "replace"))]
    assert admission_of().admit(Headers(raw=raw), ANYONE).body_bytes == 100


def test_a_request_without_a_body_takes_no_bytes() -> None:
    assert admission_of().admit(Headers(), ANYONE).body_bytes == 0


def test_a_body_above_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TooLargeError, match="101 bytes or more and the limit is 100"):
        admission_of().admit(body_of(101), ANYONE)


@pytest.mark.parametrize(
    ("change", "code"),
    [("refuse", "draining"), ("fail", "gpu_failed"), ("drain", None)],
    ids=["refusing", "failed", "draining"],
)
def test_admission_follows_the_life_cycle(change: str, code: str | None) -> None:
    lifecycle = Lifecycle()
    admission = Admission(lifecycle, max_body_bytes=1, max_concurrent_requests=1, max_in_flight_bytes=1)
    with pytest.raises(UnavailableError) as loading:
        admission.admit(Headers(), ANYONE)
    assert loading.value.code == "not_ready" and admission.requests == 0
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
