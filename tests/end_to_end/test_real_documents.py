"""Real documents through the whole HTTP path, where they are at hand: each gets one of the answers that it should get."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model import Reranker
from tests.servers import RunningService, fake_loader, running_service

SAMPLES = Path(__file__).parents[2].parent / "shared" / "samples"
MANIFEST = SAMPLES / "manifest.jsonl"
ENTRIES = [json.loads(line) for line in MANIFEST.read_text().splitlines()] if MANIFEST.exists() else []

pytestmark = pytest.mark.skipif(not ENTRIES, reason="the real documents are not part of the project; ../shared/samples")


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker)) as running:
        yield running


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["file"])
def test_a_real_document_gets_the_answer_it_should(service: RunningService, entry: dict[str, Any]) -> None:
    files = [("file", (entry["file"], (SAMPLES / entry["file"]).read_bytes()))]
    response = service.client.post("/rerank", data={"query": "figures"}, files=files)
    body = response.json()
    answer: dict[str, Any] = {"status": response.status_code}
    if response.status_code == 200:
        answer["pages"] = len(body["results"])
        assert len({result["id"] for result in body["results"]}) == answer["pages"]
    else:
        answer["code"] = body["code"]
    assert answer in entry["accept"], body
