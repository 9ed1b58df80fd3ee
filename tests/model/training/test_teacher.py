import asyncio
import base64
import io
import logging
import socket
import threading
from collections.abc import Callable

import pytest
from PIL import Image

from model.prompt import instruction
from model.training.errors import DataError, RefusedError, TeacherError
from model.training.rate_limit import RateLimit
from model.training.spending import Usage
from model.training.teacher import Teacher, TeacherConfig
from tests.teacher_endpoint import (
    Answer,
    Question,
    Reply,
    TeacherEndpoint,
    refuses,
    reversed_order,
    says,
    teacher_endpoint,
)

KEY = "sk-a-key-that-nobody-may-see"
SOON = {"Retry-After": "0.05"}


def page(width: int = 20, height: int = 30, colour: str = "red") -> Callable[[], Image.Image]:
    return lambda: Image.new("RGB", (width, height), colour)


def ask(url: str, *, usages: list[Usage | None] | None = None, times: int = 1, **changes: object) -> tuple[int, ...]:
    """The ranking of three pages; the last of several where `times` is above 1."""
    config = TeacherConfig(base_url=url, model="teacher-1", api_key=KEY, **changes)  # type: ignore[arg-type]

    async def ask_and_close() -> tuple[int, ...]:
        record = (lambda usage: None) if usages is None else usages.append
        teacher = Teacher(config, rate=RateLimit(60_000), record_usage=record)
        try:
            rankings = [await teacher.ask("net income", [page(), page(), page()]) for _ in range(times)]
        finally:
            await teacher.close()
        return rankings[-1]

    return asyncio.run(ask_and_close())


def replies(*first: Reply) -> Answer:
    """These one after the other, then usable answers."""
    return lambda question: first[question.number - 1] if question.number <= len(first) else reversed_order(question)


def endpoint_says(answer: Answer, **changes: object) -> tuple[TeacherEndpoint, str]:
    """What the endpoint saw, and what the teacher complained of."""
    with teacher_endpoint(answer) as endpoint, pytest.raises(TeacherError) as error:
        ask(endpoint.url, **changes)  # type: ignore[arg-type]
    return endpoint, str(error.value)


def test_the_prompt_is_the_rerankers_own_with_the_pages_in_order() -> None:
    with teacher_endpoint() as endpoint:
        assert ask(endpoint.url) == (2, 1, 0)
    (question,) = endpoint.questions
    assert question.text == instruction("net income", 3)
    assert len(question.images) == 3
    assert question.body["model"] == "teacher-1"
    assert question.body["temperature"] == 0
    assert question.headers["authorization"] == f"Bearer {KEY}"


def test_pages_are_sent_as_jpeg_and_no_larger_than_asked() -> None:
    with teacher_endpoint() as endpoint:
        ask(endpoint.url, longest_edge=15)
    kind, _, data = endpoint.questions[0].images[0].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (10, 15)


def test_a_model_without_temperature_is_asked_without_from_then_on() -> None:
    def answer(question: Question) -> Reply:
        if "temperature" in question.body:
            return refuses(
                400, "Unsupported value: 'temperature' does not support 0 with this model.", param="temperature"
            )
        return reversed_order(question)

    with teacher_endpoint(answer) as endpoint:
        assert ask(endpoint.url, times=2) == (2, 1, 0)
    assert ["temperature" in question.body for question in endpoint.questions] == [True, False, False]


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_paid_for() -> None:
    usages: list[Usage | None] = []
    with teacher_endpoint(replies(says("I think [A] is best."), says(None), says("[B] > [A] > [C]"))) as endpoint:
        assert ask(endpoint.url, usages=usages) == (1, 0, 2)
    assert usages == [Usage(prompt_tokens=1_000, completion_tokens=10)] * 3
    assert [question.body.get("temperature") for question in endpoint.questions] == [0, None, None]


def test_asking_again_ends_with_what_was_wrong() -> None:
    endpoint, said = endpoint_says(lambda question: says("[A] > [B]"), asks=2)
    assert len(endpoint.questions) == 2
    assert "leaves out C" in said


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": None}, {"choices": [{"message": {"content": 7}}]}, {"choices": [None]}]
)
def test_a_body_that_is_no_completion_is_an_answer_without_text(body: object) -> None:
    _, said = endpoint_says(lambda question: Reply(body=body), asks=1)
    assert said == "The answer holds no text."


@pytest.mark.parametrize("body", [[], "<html>Welcome</html>"])
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_web_page_in_place_of_a_completion_is_told_with_a_guess_at_the_reason(body: object, kind: str) -> None:
    endpoint, said = endpoint_says(lambda question: Reply(body=body, headers={"Content-Type": kind}))
    assert "is no chat completion. Is the base URL complete? Most end with /v1." in said
    assert len(endpoint.questions) == 1


def test_a_body_that_is_no_json_is_no_completion() -> None:
    _, said = endpoint_says(lambda question: Reply(body=b"{torn"))
    assert "is no chat completion" in said


def test_an_endpoint_that_counts_no_tokens_is_told_apart() -> None:
    usages: list[Usage | None] = []
    with teacher_endpoint(lambda question: says("[A] > [B] > [C]", usage=None)) as endpoint:
        assert ask(endpoint.url, usages=usages) == (0, 1, 2)
    assert usages == [None]


def test_too_many_requests_are_sent_again_when_the_endpoint_says() -> None:
    with teacher_endpoint(replies(refuses(429, headers=SOON), refuses(503, headers=SOON))) as endpoint:
        assert ask(endpoint.url) == (2, 1, 0)
    arrivals = [question.arrived for question in endpoint.questions]
    assert len(arrivals) == 3
    assert arrivals[1] - arrivals[0] >= 0.05


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_holds_for_every_question_is_not_repeated(status: int) -> None:
    said = rf"127\.0\.0\.1:\d+ answered {status}: .*Wrong key: \[key\]\."
    with (
        teacher_endpoint(lambda question: refuses(status, f"Wrong key: {KEY}.")) as endpoint,
        pytest.raises(RefusedError, match=said),
    ):
        ask(endpoint.url)
    assert len(endpoint.questions) == 1


def test_an_exhausted_quota_holds_for_every_question() -> None:
    reply = refuses(429, headers={"x-should-retry": "false"}, code="insufficient_quota")
    with teacher_endpoint(lambda question: reply) as endpoint, pytest.raises(RefusedError, match="answered 429"):
        ask(endpoint.url)


def test_one_question_that_is_too_long_is_that_questions_own_failure() -> None:
    endpoint, said = endpoint_says(lambda question: refuses(400, "too many tokens"))
    assert "answered 400" in said and "too many tokens" in said
    assert len(endpoint.questions) == 1


def test_the_key_stands_in_no_message_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _, said = endpoint_says(lambda question: says(f"[A] > {KEY}"), asks=1)
    assert "[key]" in said
    config = TeacherConfig(base_url="http://user:secret@host/v1", model="m", api_key=KEY)
    assert KEY not in said + caplog.text + repr(config)
    assert config.host == "host"


def test_an_endpoint_that_is_not_there_is_told_by_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.training.teacher._REPEATED_SENDS", 0)  # a minute of attempts otherwise
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(RefusedError, match=r"127\.0\.0\.1:\d+ cannot be reached"):
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")


def test_an_answer_that_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.training.teacher._REPEATED_SENDS", 0)
    is_over = threading.Event()

    def answer(question: Question) -> Reply:
        is_over.wait(10)
        return reversed_order(question)

    with teacher_endpoint(answer) as endpoint:
        try:
            with pytest.raises(TeacherError, match=r"did not answer within 0\.1 s"):
                ask(endpoint.url, timeout_seconds=0.1)
        finally:
            is_over.set()


def test_a_page_that_cannot_be_opened_is_its_own_error() -> None:
    def broken() -> Image.Image:
        raise DataError("page 3 is torn")

    async def ask_about_it(url: str) -> None:
        config = TeacherConfig(base_url=url, model="m", api_key=KEY)
        teacher = Teacher(config, rate=RateLimit(60), record_usage=lambda usage: None)
        try:
            await teacher.ask("a", [page(), broken])
        finally:
            await teacher.close()

    with teacher_endpoint() as endpoint, pytest.raises(DataError, match="page 3 is torn"):
        asyncio.run(ask_about_it(endpoint.url))
    assert endpoint.questions == []


@pytest.mark.parametrize("url", ["api.example.com/v1", "ftp://host", "http://", "", "http://[::1", "http://host:port"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(TeacherError, match="must look like https://api"):
        TeacherConfig(base_url=url, model="m", api_key=KEY)


@pytest.mark.parametrize("key", ["", "  ", "sk-schlüssel", "sk-one\nsk-two"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(TeacherError, match="The API key is empty, or holds characters that are impossible in a key"):
        TeacherConfig(base_url="http://host", model="m", api_key=key)


@pytest.mark.parametrize("changes", [{"asks": 0}, {"longest_edge": 0}, {"timeout_seconds": float("nan")}])
def test_impossible_numbers_are_refused_by_name(changes: dict[str, float]) -> None:
    with pytest.raises(TeacherError, match=next(iter(changes))):
        TeacherConfig(base_url="http://host", model="m", api_key=KEY, **changes)  # type: ignore[arg-type]
