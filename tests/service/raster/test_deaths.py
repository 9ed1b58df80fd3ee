from service.raster.deaths import DeathRecord


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_record() -> tuple[DeathRecord, Clock, list[str]]:
    clock, causes = Clock(), []
    return DeathRecord(on_worker_death=causes.append, clock=clock), clock, causes


def test_document_is_refused_after_its_second_kill() -> None:
    record, _, _ = make_record()
    record.blame("a", code="page_timeout")
    assert record.verdict_on("a") is None
    record.blame("a", code="page_crashed")
    assert record.verdict_on("a") == "page_crashed"
    assert record.verdict_on("b") is None


def test_verdict_ends_after_ten_minutes() -> None:
    record, clock, _ = make_record()
    record.blame("a", code="page_timeout")
    record.blame("a", code="page_timeout")
    clock.now += 601
    assert record.verdict_on("a") is None
    record.blame("a", code="page_timeout")
    assert record.verdict_on("a") is None


def test_memory_for_killers_is_bounded() -> None:
    record, _, _ = make_record()
    for number in range(1_001):
        record.blame(str(number), code="page_timeout")
        record.blame(str(number), code="page_timeout")
    assert record.verdict_on("0") is None
    assert record.verdict_on("1") == record.verdict_on("1000") == "page_timeout"


def test_more_than_ten_deaths_in_a_minute_are_a_storm_until_the_minute_is_over() -> None:
    record, clock, causes = make_record()
    for _ in range(10):
        record.record("crash")
    assert not record.is_storm
    record.record("timeout")
    assert record.is_storm
    clock.now += 61
    assert not record.is_storm
    assert causes == ["crash"] * 10 + ["timeout"]
