"""Requests with mutated documents, JSON and forms to a live service: never a server error, never a detail of the inside."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Lock

import httpx

from model import Reranker
from service.dialects.examples import REGISTERED_ID
from tests.documents import make_pdf
from tests.fuzzing.bodies import Request, request_of
from tests.fuzzing.runs import FuzzRun
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import RunningService, fake_loader, running_service

CLIENTS = 3
LEAKS = re.compile(rb"0x[0-9a-f]{6,}|Traceback|site-packages|\.py\b|/usr/lib|BytesIO")
ALLOWED = (200, 400, 404, 408, 413, 415, 422)
"""Neither 429 nor 503 either: three clients are no load."""


def in_turn(numbers: Iterator[int], lock: Lock) -> Iterator[int]:
    """The numbers for one of several threads."""
    while True:
        with lock:
            number = next(numbers, None)
        if number is None:
            return
        yield number


def complaint_about(answer: httpx.Response) -> str | None:
    """None where an answer is as it must be."""
    if answer.status_code not in ALLOWED:
        return f"status {answer.status_code}"
    if answer.headers["content-type"] != "application/json":
        return f"content type {answer.headers['content-type']}"
    try:
        body = answer.json()
    except ValueError:
        return "no JSON"
    if answer.status_code == 200:
        return None
    if not isinstance(body, dict) or len(answer.content) > 8192:
        return "an error that is no object, or a large one"
    if found := LEAKS.search(answer.content):
        return f"the error tells {found[0]!r}"
    return None


def try_request(service: RunningService, client: httpx.Client, run: FuzzRun, number: int) -> None:
    request: Request = request_of(run.random(number))
    headers = {"content-type": request.content_type} if request.content_type else {}
    details = {"path": request.path, "content_type": request.content_type}
    try:
        answer = client.post(f"{service.url}{request.path}", content=request.body, headers=headers)
    except httpx.TransportError as error:
        run.fail(number, request.body, f"no answer: {type(error).__name__}", **details)
        return
    if complaint := complaint_about(answer):
        run.fail(number, request.body, complaint, answer=answer.text[:2000], **details)
        return
    run.note(f"{answer.status_code} {request.kind}")


def test_requests(reranker: Reranker) -> None:
    run = FuzzRun(name="requests")
    numbers, lock = run.cases(), Lock()

    def send(service: RunningService) -> None:
        with httpx.Client(timeout=PATIENCE_SECONDS) as client:
            for number in in_turn(numbers, lock):
                try_request(service, client, run, number)

    with running_service(fake_loader(reranker), rasterizer_processes=2) as service:
        headers = {"content-type": "application/pdf"}
        assert (
            service.client.put(f"/documents/{REGISTERED_ID}", content=make_pdf(2), headers=headers).status_code == 202
        )
        before = score(service)
        with ThreadPoolExecutor(CLIENTS) as threads:
            for done in [threads.submit(send, service) for _ in range(CLIENTS)]:
                done.result()
        eventually(lambda: service.metric("ziprerank_requests_in_flight") == 0, "no request is left over")
        assert service.client.get("/livez").status_code == service.client.get("/readyz").status_code == 200
        assert score(service) == before
        assert len(service.server.service.rasterizer.worker_pids) == 2
    run.report()
    assert run.only or {outcome[:3] for outcome in run.outcomes} >= {"200", "400", "422"}


def score(service: RunningService) -> object:
    """The results for a whole document."""
    answer = service.client.post("/rerank", json={"query": "locks", "documents": [f"ziprerank://{REGISTERED_ID}"]})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_an_answer_that_tells_of_the_inside_is_found() -> None:
    def complaint(status: int, text: str) -> str | None:
        return complaint_about(httpx.Response(status, text=text, headers={"content-type": "application/json"}))

    assert complaint(422, '{"message": "the image cannot be decoded"}') is None
    assert complaint(422, '{"message": "<_io.BytesIO object at 0x7f2a90>"}') == "the error tells b'BytesIO'"
    assert complaint(500, "{}") == "status 500"
    assert complaint(400, "nothing") == "no JSON"


def test_a_case_is_the_same_request_again() -> None:
    run = FuzzRun(name="requests")
    assert [request_of(run.random(number)) for number in range(20)] == [
        request_of(run.random(number)) for number in range(20)
    ]
    assert request_of(Random("a")) != request_of(Random("b"))
