"""A file of API keys on a running service: accepted in every usual header, limited, counted by id, and read again."""

import base64
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model import FakeRankingModel, ModelInfo, PageScores, PreparedRequest, Reranker, score_in_input_order
from service import host_gate
from service.api_keys import make_key, read_keys, write_keys
from tests.documents import make_pdf
from tests.patience import PATIENCE_SECONDS, eventually
from tests.servers import RunningService, fake_loader, running_service

DOCUMENT = {"pdf": base64.b64encode(make_pdf(4)).decode()}
BODY = {"query": "locks", "documents": [DOCUMENT]}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keys(path: Path) -> dict[str, str]:
    made = {id: make_key(id, max_pages_per_minute=limit) for id, limit in (("team", None), ("slow", 4), ("gone", None))}
    write_keys(path, [entry for _, entry in made.values()])
    return {id: key for id, (key, _) in made.items()}


@pytest.fixture(scope="module")
def service(reranker: Reranker, path: Path, keys: dict[str, str]) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker), api_keys_file=path, cache_scope="per_key") as running:
        yield running


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "Authorization: {}", "X-API-Key: {}", "api-key: {}"])
def test_a_key_is_accepted_in_every_usual_header(service: RunningService, keys: dict[str, str], header: str) -> None:
    name, _, value = header.partition(": ")
    assert service.client.post("/rerank", json=BODY, headers={name: value.format(keys["team"])}).status_code == 200
    wrong = service.client.post("/rerank", json=BODY, headers={name: value.format("zr_wrong")})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthorized")
    assert "API key" in wrong.json()["message"]


def test_requests_are_counted_by_the_id_of_the_key(service: RunningService, keys: dict[str, str]) -> None:
    counted = {"key": "team", "code": "200"}
    service.client.headers["X-API-Key"] = keys["team"]
    before = service.metric("ziprerank_key_requests_total", **counted)
    service.client.post("/rerank", json=BODY)
    eventually(lambda: service.metric("ziprerank_key_requests_total", **counted) == before + 1)
    assert keys["team"] not in service.client.get("/metrics").text


def test_pages_above_the_limit_of_a_key_are_refused_with_the_time_to_wait(
    service: RunningService, keys: dict[str, str]
) -> None:
    slow = {"Authorization": f"Bearer {keys['slow']}"}
    assert service.client.post("/rerank", json=BODY, headers=slow).status_code == 200
    refusal = service.client.post("/rerank", json=BODY, headers=slow)
    assert (refusal.status_code, refusal.json()["code"]) == (429, "overloaded")
    assert "4 in a minute" in refusal.json()["message"] and 1 <= int(refusal.headers["retry-after"]) <= 60


def test_a_key_with_limits_is_told_what_is_left_of_them(reranker: Reranker, tmp_path: Path) -> None:
    made = {
        "both": make_key("both", max_pages_per_minute=6, max_concurrent_requests=3),
        "none": make_key("none"),
    }
    write_keys(tmp_path / "keys.json", [entry for _, entry in made.values()])
    with running_service(
        fake_loader(reranker), api_keys_file=tmp_path / "keys.json", cors_origins="https://app.example"
    ) as service:
        limited = {"X-API-Key": made["both"][0], "Origin": "https://app.example"}
        answer = service.client.post("/rerank", json=BODY, headers=limited)
        policy = '"pages";q=6;w=60, "requests";q=3;qu="concurrent-requests"'
        assert answer.status_code == 200 and answer.headers["ratelimit-policy"] == policy
        pages, requests = answer.headers["ratelimit"].split(", ")
        assert pages.startswith('"pages";r=2;t=') and 30 <= int(pages.rpartition("=")[2]) <= 40
        assert requests == '"requests";r=2', "one is under way"
        exposed = answer.headers["access-control-expose-headers"]
        assert "RateLimit," in exposed and "RateLimit-Policy" in exposed

        refusal = service.client.post("/rerank", json=BODY, headers=limited)
        assert refusal.status_code == 429 and refusal.headers["ratelimit-policy"] == policy
        assert refusal.headers["ratelimit"].startswith('"pages";r=2;t=')

        unlimited = service.client.post("/rerank", json=BODY, headers={"X-API-Key": made["none"][0]})
        assert unlimited.status_code == 200 and "ratelimit" not in unlimited.headers


def test_a_key_without_pages_left_is_refused_before_its_body_is_read(reranker: Reranker, tmp_path: Path) -> None:
    key, entry = make_key("slow", max_pages_per_minute=1)
    write_keys(tmp_path / "keys.json", [entry])
    with running_service(fake_loader(reranker), api_keys_file=tmp_path / "keys.json") as service:
        service.client.headers["X-API-Key"] = key
        assert service.client.post("/rerank", json=BODY).status_code == 200
        refusal = service.client.post("/rerank", content=b"no JSON", headers={"content-type": "application/json"})
        assert refusal.status_code == 429


def test_a_flood_of_one_key_leaves_every_second_window_to_another(reranker: Reranker, tmp_path: Path) -> None:
    """Thirty requests of one key wait when three of another come: the device takes those in turn, not at the end."""
    made = {id: make_key(id) for id in ("flooder", "other")}
    write_keys(tmp_path / "keys.json", [entry for _, entry in made.values()])
    gate, entered = threading.Event(), threading.Event()
    sizes: list[int] = []

    def score(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)
        sizes.extend(len(request.pages) for request in batch)
        return score_in_input_order(batch)

    def send(running: RunningService, pages: int, key: str) -> int:
        document = {"pdf": DOCUMENT["pdf"], "pages": f"1-{pages}"}
        body = {"query": "locks", "documents": [document]}
        return running.client.post("/rerank", json=body, headers={"X-API-Key": made[key][0]}).status_code

    with (
        running_service(fake_loader(reranker, score), api_keys_file=tmp_path / "keys.json") as running,
        ThreadPoolExecutor(40) as threads,
    ):
        running.client.headers["X-API-Key"] = made["flooder"][0]
        sent = [threads.submit(send, running, 2, "flooder")]
        assert entered.wait(PATIENCE_SECONDS)
        sent += [threads.submit(send, running, 2, "flooder") for _ in range(30)]
        eventually(lambda: running.metric("ziprerank_requests_waiting") == 30)
        sent += [threads.submit(send, running, 1, "other") for _ in range(3)]
        eventually(lambda: running.metric("ziprerank_requests_waiting") == 33)
        gate.set()
        assert {future.result() for future in sent} == {200}
    assert max(place for place, pages in enumerate(sizes) if pages == 1) <= 6, sizes


@pytest.mark.parametrize(("device", "is_drawn"), [("cpu", False), ("cuda:0", True)])
def test_on_a_cpu_no_page_of_another_key_is_drawn_while_a_short_window_is_scored(
    reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, is_drawn: bool
) -> None:
    monkeypatch.setattr(host_gate, "_LONGEST_SECONDS", PATIENCE_SECONDS)
    made = {id: make_key(id) for id in ("flooder", "other")}
    write_keys(tmp_path / "keys.json", [entry for _, entry in made.values()])
    is_held, entered, released = (threading.Event() for _ in range(3))

    def score(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        if is_held.is_set():
            entered.set()
            assert released.wait(PATIENCE_SECONDS)
        return score_in_input_order(batch)

    @dataclass(kw_only=True, eq=False)
    class ModelOn(FakeRankingModel):
        def describe(self) -> ModelInfo:
            return replace(super().describe(), device=device)

    def send(key: str, pages: str) -> int:
        body = {"query": "locks", "documents": [{"pdf": DOCUMENT["pdf"], "pages": pages}]}
        return running.client.post("/rerank", json=body, headers={"X-API-Key": made[key][0]}).status_code

    def drawn() -> float:
        return running.metric("ziprerank_raster_page_duration_seconds_count", stage="render")

    with (
        running_service(
            lambda settings: ModelOn(model=reranker, score_batch=score), api_keys_file=tmp_path / "keys.json"
        ) as running,
        ThreadPoolExecutor(2) as threads,
    ):
        running.client.headers["X-API-Key"] = made["other"][0]
        assert [send("flooder", "1"), send("other", "2")] == [200, 200]
        before = drawn()
        is_held.set()
        sent = [threads.submit(send, "other", "2")]
        assert entered.wait(PATIENCE_SECONDS)
        sent.append(threads.submit(send, "flooder", "3-4"))
        if is_drawn:
            eventually(lambda: drawn() == before + 2)
        else:
            assert {drawn() for _ in range(100)} == {before}
        released.set()
        assert [future.result() for future in sent] == [200, 200]
        assert drawn() == before + 2


def test_documents_belong_to_the_key_id_not_to_the_key(
    service: RunningService, path: Path, keys: dict[str, str]
) -> None:
    service.client.put(
        "/documents/private",
        content=make_pdf(1),
        headers={"content-type": "application/pdf", "X-API-Key": keys["team"]},
    )
    newer, entry = make_key("team")
    write_keys(path, [*read_keys(path), entry])
    eventually(lambda: service.client.get("/documents/private", headers={"X-API-Key": newer}).status_code == 200)
    assert service.client.get("/documents/private", headers={"X-API-Key": keys["slow"]}).status_code == 404


def test_a_removed_key_is_refused_without_a_restart(service: RunningService, path: Path, keys: dict[str, str]) -> None:
    gone = {"X-API-Key": keys["gone"]}
    assert service.client.get("/info", headers=gone).status_code == 200
    write_keys(path, [entry for entry in read_keys(path) if entry.id != "gone"])
    eventually(lambda: service.client.get("/info", headers=gone).status_code == 401)


def test_requests_of_a_key_may_yield_but_never_overtake(reranker: Reranker, tmp_path: Path) -> None:
    """The windows of a batch are in the order of the queue."""
    made = {"front": make_key("front"), "back": make_key("back", priority=5)}
    write_keys(tmp_path / "keys.json", [entry for _, entry in made.values()])
    gate, entered = threading.Event(), threading.Event()
    sizes: list[int] = []

    def score(batch: Sequence[PreparedRequest]) -> list[PageScores]:
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)
        sizes.extend(len(request.pages) for request in batch)
        return score_in_input_order(batch)

    def send(pages: int, key: str, fields: dict[str, int]) -> int:
        body = {"query": "locks", "documents": [{"pdf": pdf, "pages": f"1-{pages}"}], **fields}
        return service.client.post("/rerank", json=body, headers={"X-API-Key": made[key][0]}).status_code

    def is_waiting(windows: int) -> bool:
        return service.metric("ziprerank_requests_waiting") == windows

    pdf = base64.b64encode(make_pdf(9)).decode()
    settings: dict[str, Any] = {"api_keys_file": tmp_path / "keys.json"}
    with running_service(fake_loader(reranker, score), **settings) as service, ThreadPoolExecutor(8) as threads:
        service.client.headers["X-API-Key"] = made["front"][0]
        sent = [threads.submit(send, 1, "front", {})]
        assert entered.wait(PATIENCE_SECONDS)
        waiting: list[tuple[int, str, dict[str, int]]] = [
            (2, "back", {}),
            (3, "front", {"priority": 9}),
            (4, "back", {"priority": 0}),
            (5, "front", {}),
            (6, "front", {"priority": -1}),
        ]
        for place, (pages, key, fields) in enumerate(waiting, start=1):
            sent.append(threads.submit(send, pages, key, fields))
            eventually(partial(is_waiting, place))
        gate.set()
        assert {future.result() for future in sent} == {200}
    assert sizes == [1, 5, 6, 2, 4, 3]
