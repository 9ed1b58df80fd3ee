"""The soak in short form, and what it would notice."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import httpx
import pytest

from benchmarks.soak.__main__ import measure
from benchmarks.soak.process_state import COUNTS, ProcessState, read_state
from benchmarks.soak.run import Plan, Soak
from benchmarks.soak.traffic import (
    HOSTILE,
    MAX_BODY_BYTES,
    MAX_PAGES,
    Hostile,
    Service,
    canary_body,
    endless_document,
    make_corpus,
)
from model import Reranker
from tests.patience import eventually
from tests.servers import RunningService, fake_loader, running_service

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

EXPECTED = {
    "broken_document": {"200", "422"},  # an image may lack a few rows
    "endless_document": {"422"},
    "slow_sender": {"408"},
    "huge_head": {"400", "431", "closed"},
    "not_http": {"400", "closed"},
    "malformed_json": {"400", "422"},
    "too_many_pages": {"413"},
    "too_large": {"413"},
    "disconnect": {"closed"},
}
CORPUS = make_corpus()


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    load = fake_loader(reranker)
    with running_service(load, max_pages=MAX_PAGES, max_body_bytes=MAX_BODY_BYTES, body_idle_seconds=0.5) as running:
        yield running


@pytest.mark.parametrize("hostile", [*dict.fromkeys(HOSTILE), endless_document], ids=lambda hostile: hostile.__name__)
def test_every_hostile_request_ends_as_it_should(service: RunningService, hostile: Hostile) -> None:
    address = httpx.URL(service.url)
    assert address.port is not None
    target = Service(host=address.host, port=address.port)
    times = 1 if hostile is endless_document else 6
    ends = [asyncio.run(hostile(target, CORPUS, Random(seed))) for seed in range(times)]
    assert set(ends) <= EXPECTED[hostile.__name__], ends
    eventually(lambda: service.metric("ziprerank_requests_in_flight") == 0, "nothing is left of it")


def test_a_service_that_keeps_everything_as_it_was_has_no_failures() -> None:
    results = measure(6.0, canary_seconds=1.0, seed=0)
    assert results["failures"] == {}, json.dumps({**results, "readings": [], "latencies_ms": []})
    assert results["good"].keys() == {"200"} and results["canaries"] >= 2
    assert results["readings"] and results["latency_ms"]["p50"] > 0


def finished_run() -> Soak:
    """A run without a fault: two canaries, one request of each sort."""
    plan = Plan(url="http://a:1", pid=1, temporary_folder=Path(), seconds=1, canary_seconds=1, seed=0)
    run = Soak(plan=plan, client=httpx.AsyncClient(), service=Service(host="a", port=1), advance=id, corpus=CORPUS)
    run.good["200"] += 1
    run.hostile["huge_head 431"] += 1
    run.canaries += [(0.1, 0.2), (0.1, 0.2)]
    run.latencies.append((0.5, 0.01))
    return run


START = ProcessState(resident_mebibytes=400, handles=12, threads=14, memfds=2, workers=2, temporary_files=0)


def test_a_run_without_a_fault_has_no_failures() -> None:
    results = finished_run().results(START, replace(START, resident_mebibytes=460, handles=11))
    assert results["failures"] == {} and results["growth_mebibytes"] == 60


@pytest.mark.parametrize(
    ("spoil", "end", "failure"),
    [
        (lambda run: run.good.update(["503"]), START, "good requests that were not answered with 200"),
        (lambda run: run.hostile.update(["too_large 500"]), START, "server errors for hostile requests"),
        (lambda run: run.hostile.update(["slow_sender never"]), START, "hostile requests without an end"),
        (lambda run: run.canaries.append((0.1, 0.2000001)), START, "canaries with other scores"),
        (id, replace(START, resident_mebibytes=465), "growth over 64 MiB"),
        *((id, replace(START, **{name: 20}), "resources that have grown") for name in COUNTS),
    ],
)
def test_a_run_with_a_fault_names_it(spoil: Callable[[Soak], object], end: ProcessState, failure: str) -> None:
    run = finished_run()
    spoil(run)
    assert run.results(START, end)["failures"] == {failure: 1}


def test_the_state_of_a_process_counts_what_it_holds() -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = read_state(os.getpid(), Path(folder))
        memory = os.memfd_create("soak")
        (Path(folder) / "left over").touch()
        after = read_state(os.getpid(), Path(folder))
        os.close(memory)
    assert (after.memfds, after.handles, after.temporary_files) == (before.memfds + 1, before.handles + 1, 1)
    assert after.threads >= 1 and after.resident_mebibytes > 10


def test_the_requests_of_a_seed_are_the_same_ones() -> None:
    assert canary_body(CORPUS) == canary_body(make_corpus())
