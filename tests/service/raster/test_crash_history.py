from service.raster.crash_history import CrashHistory
from tests.clocks import Clock


def make_history() -> tuple[CrashHistory, Clock, list[str]]:
    clock = Clock(1000.0)
    causes: list[str] = []
    return CrashHistory(on_worker_death=causes.append, clock=clock), clock, causes


def is_storm(history: CrashHistory) -> bool:
    """By a call: a type checker expects a property to be the same in two asserts."""
    return history.is_storm


def test_document_is_in_quarantine_after_its_second_crash() -> None:
    history, _, _ = make_history()
    history.record_crash("a", code="page_timeout")
    assert history.quarantine_code("a") is None
    history.record_crash("a", code="page_crashed")
    assert history.quarantine_code("a") == "page_crashed"
    assert history.quarantine_code("b") is None


def test_quarantine_ends_after_ten_minutes() -> None:
    history, clock, _ = make_history()
    history.record_crash("a", code="page_timeout")
    history.record_crash("a", code="page_timeout")
    clock.now += 601
    assert history.quarantine_code("a") is None
    history.record_crash("a", code="page_timeout")
    assert history.quarantine_code("a") is None


def test_memory_for_documents_in_quarantine_is_bounded() -> None:
    history, _, _ = make_history()
    for number in range(1_001):
        history.record_crash(str(number), code="page_timeout")
        history.record_crash(str(number), code="page_timeout")
    assert history.quarantine_code("0") is None
    assert history.quarantine_code("1") == history.quarantine_code("1000") == "page_timeout"


def test_more_than_ten_deaths_in_a_minute_are_a_storm_until_the_minute_is_over() -> None:
    history, clock, causes = make_history()
    for _ in range(10):
        history.record_death("crash")
    assert not is_storm(history)
    history.record_death("timeout")
    assert is_storm(history)
    clock.now += 61
    assert not is_storm(history)
    assert causes == ["crash"] * 10 + ["timeout"]
