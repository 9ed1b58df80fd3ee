"""The soak in short form, and what it would notice."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

from benchmarks.soak.__main__ import measure
from benchmarks.soak.process_state import read_state
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
    limits = {"max_pages": MAX_PAGES, "max_body_bytes": MAX_BODY_BYTES, "body_idle_seconds": 0.5}
    with running_service(fake_loader(reranker), **limits) as running:
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
